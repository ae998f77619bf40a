module github.com/natless/natless/tests/cri

go 1.26.3

require k8s.io/cri-api v0.37.2 // indirect
