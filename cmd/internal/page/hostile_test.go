//go:build linux

package page

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// good is every page, as somebody finds it who asks for what there is.
var good = []string{"/", "/addresses/198.51.100.1", "/workloads", "/workloads?name=ns/web", "/workloads?pool=default",
	"/workloads/00123456789abcdef/eth0", "/whois?address=198.51.100.1:443", "/whois?address=2001:db8::1",
	"/dropped", "/assets/style.css", "/assets/script.js", "/assets/icon.svg"}

// hostile is what no page is for, some of it for each handler.
func hostile() (paths []string) {
	long, odd := strings.Repeat("x", 1<<14), "%00%ff%22%3E%3Cscript%3E%E2%80%AE%0d%0aX-Evil:1"
	for _, value := range []string{"", odd, long, "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "-1", "99999999999999999999", "{{.}}", "198.51.100.9", "::", "fe80::1%25eth0", "0.0.0.0:0"} {
		paths = append(paths, "/addresses/"+value, "/workloads/"+value+"/"+value, "/workloads?name="+value+"&pool="+value+"&after="+value,
			"/workloads?after="+value, "/whois?address="+value, "/whois?address=198.51.100.1:443&at="+value, "/whois?address="+value+"&at="+value,
			"/assets/"+value, "/"+value, "/?"+value)
	}
	return append(paths, "/workloads/a/b/c", "/workloads?name=a&name=b", "/whois?address=%zz", "/whois?;;", "/nothing")
}

// request is one for a target that httptest would not let pass.
func request(method, target string) *http.Request {
	r := httptest.NewRequest(method, "/", nil)
	path, query, _ := strings.Cut(target, "?")
	r.URL.Path, r.URL.RawQuery = path, query
	if decoded, err := url.PathUnescape(path); err == nil {
		r.URL.Path, r.URL.RawPath = decoded, path
	}
	return r
}

// TestHostileRequests: whatever somebody asks for, everybody finds the same as
// before: nothing of a request stays behind in what answers the next one.
func TestHostileRequests(t *testing.T) {
	l := newLab(t)
	before := map[string]string{}
	for _, path := range good {
		_, before[path] = l.get(path, 200)
	}
	for _, bad := range hostile() {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "BREW"} {
			w := httptest.NewRecorder()
			l.handler.ServeHTTP(w, request(method, bad))
			if w.Code >= 500 {
				t.Errorf("%s %.60q: %d", method, bad, w.Code)
			}
			if strings.Contains(w.Body.String(), "<script>") || w.Header().Get("X-Evil") != "" {
				t.Errorf("%s %.60q: what was asked is in the page as it was", method, bad)
			}
		}
		for _, path := range good {
			if _, source := l.get(path, 200); source != before[path] {
				t.Fatalf("after %.60q, %s is another page:\n%s", bad, path, source)
			}
		}
	}
}

// TestRequestsTogether has everybody ask at once, for the race detector.
func TestRequestsTogether(t *testing.T) {
	l := newLab(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j, path := range append(hostile(), good...) {
				w := httptest.NewRecorder()
				if l.handler.ServeHTTP(w, request("GET", path)); w.Code >= 500 {
					t.Errorf("%d %d %.60q: %d", i, j, path, w.Code)
				}
			}
		})
	}
	wg.Wait()
	for _, path := range good {
		l.get(path, 200)
	}
}
