{{- define "natless.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (.Chart.AppVersion | replace "+" "_") }}
{{- end -}}
{{- end -}}

{{- define "natless.labels" -}}
app.kubernetes.io/name: natless
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ regexReplaceAll "\\+.*" .Chart.AppVersion "" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end -}}

{{/* The files of the configuration: one, or one for each node. */}}
{{- define "natless.config" -}}
{{- if .Values.nodes -}}
{{- range $node, $other := .Values.nodes }}
{{ $node }}.yaml: {{ mergeOverwrite (deepCopy $.Values.config) $other | toYaml | toJson }}
{{- end -}}
{{- else -}}
natless.yaml: {{ .Values.config | toYaml | toJson }}
{{- end -}}
{{- end -}}

{{/* The port of the metrics, which whoever wants them must have opened. */}}
{{- define "natless.metricsPort" -}}
{{- $listen := dig "metrics" "listen" "" .Values.config -}}
{{- if not $listen -}}
{{- fail "config.metrics.listen is not set: without it there are no metrics to read (\"[::]:9464\", say)" -}}
{{- end -}}
{{- regexFind "[0-9]+$" $listen -}}
{{- end -}}
