//go:build linux

package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/natless/natless/tests/netns"
)

// prometheus is a running one, with a database that goes with the test.
type prometheus struct {
	t      *testing.T
	client http.Client
}

const prometheusConfig = `
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [%s]
scrape_configs:
  - job_name: natless
    static_configs: [{targets: ["[::1]:9464"]}]
`

// startPrometheus runs Debian's Prometheus in ns, where it scrapes natlessd.
func startPrometheus(t *testing.T, ns *netns.NS, rules string) *prometheus {
	t.Helper()
	rules, err := filepath.Abs(rules)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, prometheusConfig, rules), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--storage.tsdb.retention.size", "100MB", "--web.listen-address", "127.0.0.1:9090", "--log.level", "error")
	cmd.Stderr = os.Stderr
	if err := netns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	p := &prometheus{t: t}
	p.client.Transport = &http.Transport{DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		ns.Do(func() { c, err = new(net.Dialer).DialContext(ctx, network, address) })
		return c, err
	}}
	t.Cleanup(p.client.CloseIdleConnections)
	p.wait("it to be ready", 30*time.Second, func() bool {
		r, err := p.client.Get("http://127.0.0.1:9090/-/ready")
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == 200
	})
	return p
}

func (p *prometheus) wait(what string, atMost time.Duration, done func() bool) {
	p.t.Helper()
	for end := time.Now().Add(atMost); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("Prometheus: waited %v in vain for %s", atMost, what)
		}
	}
}

// get asks the API and unpacks what it answers.
func (p *prometheus) get(path string, data any) error {
	r, err := p.client.Get("http://127.0.0.1:9090/api/v1/" + path)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	return nil
}

// sample is one element of what an expression gives.
type sample struct {
	Metric map[string]string
	Value  float64
}

func (p *prometheus) query(expression string) (samples []sample, err error) {
	var data struct {
		ResultType string
		Result     []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.get("query?query="+url.QueryEscape(expression), &data); err != nil {
		return nil, err
	}
	if data.ResultType != "vector" {
		return nil, fmt.Errorf("it gives a %s", data.ResultType)
	}
	for _, r := range data.Result {
		v, err := strconv.ParseFloat(r.Value[1].(string), 64)
		if err != nil {
			return nil, err
		}
		samples = append(samples, sample{r.Metric, v})
	}
	return samples, nil
}

// becomes waits until an expression gives one value, and that one.
func (p *prometheus) becomes(expression string, want float64) {
	p.t.Helper()
	var got []sample
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var err error
		if got, err = p.query(expression); err != nil {
			p.t.Fatalf("%s: %v", expression, err)
		}
		if len(got) == 1 && got[0].Value == want {
			return
		}
	}
	p.t.Errorf("%s is %v, want %v", expression, got, want)
}
