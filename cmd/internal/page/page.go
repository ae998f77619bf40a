//go:build linux

// Package page is the daemon's status page for people: what goes through it,
// what is dropped and why, and who owns which ports of which address. It is
// rendered on the server from embedded assets, needs no JavaScript, and only
// reads. Counting, and anything that changes something, may not enter here.
package page

import (
	"bytes"
	"embed"
	"errors"
	"html/template"
	"iter"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/natless/natless/config/api"
	"github.com/natless/natless/config/registry"
	"github.com/natless/natless/netstack/accounting"
	"github.com/natless/natless/netstack/dataplane"
	"github.com/natless/natless/translator"
	"github.com/natless/natless/translator/ports"
)

//go:embed assets
var assets embed.FS

// Sources is where the page's facts come from. They are asked at each view, by
// any number of goroutines.
type Sources struct {
	Host     string // what this host is called
	Status   func() api.Status
	Traffic  func() dataplane.Snapshot
	Registry *registry.Registry
	// Used is what all assignments have used, by serial. Counted: packets are counted,
	// too, and not only those that were refused.
	Used    func() iter.Seq2[uint64, accounting.Usage]
	Counted bool
	// Flows are those of an assignment that are open or have ended since; nil: they
	// are not recorded.
	Flows func(serial uint64, since time.Duration) []api.Flow
	// Dropped is what is seen of dropped packets while somebody goes on asking; nil:
	// nobody watches.
	Dropped func() Dropped
	// Assignable is what of an address a pool may give away; empty: all.
	Assignable func(pool string) ports.Set
	// Owners says who has, or had, an address or its port (-1: any).
	Owners func(a netip.Addr, port int, at time.Time) (api.Owners, error)
	// Complete adds what only the translator knows of a workload.
	Complete func(*api.Workload)
	// Meaning says a verdict in a sentence.
	Meaning func(translator.Verdict) string
	Now     func() time.Time // nil: time.Now
}

// Page answers for every address below its root.
type Page struct {
	Sources
	log     *slog.Logger
	views   map[string]*template.Template
	recent  history[counts]
	meter   meter
	watched watched
}

// New makes the handler.
func New(s Sources, log *slog.Logger) http.Handler {
	_, h := newPage(s, log)
	return h
}

func newPage(s Sources, log *slog.Logger) (*Page, http.Handler) {
	if s.Now == nil {
		s.Now = time.Now
	}
	p := &Page{Sources: s, log: log, views: map[string]*template.Template{}}
	for _, name := range []string{"overview", "address", "workloads", "workload", "whois", "dropped", "problem"} {
		p.views[name] = template.Must(template.New("frame.html").Funcs(functions).ParseFS(assets, "assets/frame.html", "assets/"+name+".html",
			"assets/parts.html"))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.show("overview", p.overview))
	mux.HandleFunc("GET /addresses/{address}", p.show("address", p.address))
	mux.HandleFunc("GET /workloads", p.show("workloads", p.workloads))
	mux.HandleFunc("GET /workloads/{container}/{interface}", p.show("workload", p.workload))
	mux.HandleFunc("GET /dropped", p.show("dropped", p.dropped))
	mux.HandleFunc("GET /whois", p.show("whois", p.whois))
	mux.HandleFunc("GET /assets/{name}", serveAsset)
	mux.HandleFunc("GET /", p.show("problem", func(*http.Request) (view, error) { return view{}, errNoPage }))
	return p, secured(mux)
}

// view is what a template gets.
type view struct {
	Title  string
	Live   bool   // worth looking at again by itself
	Place  string // in the navigation
	Host   string
	Now    time.Time
	Status api.Status
	Uptime string
	Ask    string // what stands in the search field
	Body   any
}

var errNoPage = &problem{http.StatusNotFound, "There is no such page."}

// problem is what a person did wrong, or looks for in vain.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

// show renders whole before it writes: a page is there or it is not.
func (p *Page) show(name string, make func(*http.Request) (view, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, status := name, http.StatusOK // of this request alone
		v, err := make(r)
		if err != nil {
			var mine *problem
			if !errors.As(err, &mine) {
				mine = &problem{http.StatusInternalServerError, err.Error()}
			}
			status, name = mine.status, "problem"
			v = view{Title: http.StatusText(status), Ask: v.Ask, Body: mine.text}
		}
		v.Host, v.Now, v.Status = p.Host, p.Now(), p.Status()
		v.Uptime = ago(v.Now.Sub(v.Status.Started))
		var b bytes.Buffer
		if err := p.views[name].Execute(&b, v); err != nil {
			p.log.Error("status page", "page", name, "error", err)
			http.Error(w, "the page could not be made; natlessd's log says why", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(status)
		w.Write(b.Bytes())
	}
}

// secured lets a page load nothing but its own style and script.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy",
			"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

var types = map[string]string{"style.css": "text/css; charset=utf-8", "script.js": "text/javascript; charset=utf-8",
	"icon.svg": "image/svg+xml"}

func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	content, err := assets.ReadFile("assets/" + name)
	if types[name] == "" || err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", types[name])
	w.Header().Set("Cache-Control", "max-age=300")
	w.Write(content)
}
