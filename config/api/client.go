package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// maxAnswer bounds what the client reads of one answer.
const maxAnswer = 64 << 20

// Client talks to natlessd. It is safe for concurrent use. Every error of its
// methods is or wraps a *Problem; the context bounds how long they take.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client for the socket; nothing is opened before the first
// question. An empty socket is DefaultSocket.
func NewClient(socket string) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	return NewClientBy(socket, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
}

// NewClientBy makes a client whose connections come from dial; the socket is what
// it is called in errors.
func NewClientBy(socket string, dial func(context.Context) (net.Conn, error)) *Client {
	connect := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	return &Client{socket, &http.Client{Transport: &http.Transport{DialContext: connect, MaxIdleConnsPerHost: 16}}}
}

// Patience has every question end as ErrUnavailable whose answer does not begin in
// time, as that of a daemon that was stopped in the middle. It gives the client.
func (c *Client) Patience(d time.Duration) *Client {
	c.http.Transport.(*http.Transport).ResponseHeaderTimeout = d
	return c
}

// Socket is the path that the client was made for.
func (c *Client) Socket() string { return c.socket }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Put assigns an address and ports to the workload, or gives back what it has.
// When it returns, the assignment is durable and the translator knows it.
func (c *Client) Put(ctx context.Context, k Key, r Request) (Workload, error) {
	return answer[Workload](ctx, c, http.MethodPut, workloadPath(k), r)
}

// Get gives one workload, or ErrNotFound.
func (c *Client) Get(ctx context.Context, k Key) (Workload, error) {
	return answer[Workload](ctx, c, http.MethodGet, workloadPath(k), nil)
}

// Delete gives the workload's assignment back. ErrNotFound when there is none,
// which is as good for who wants it gone.
func (c *Client) Delete(ctx context.Context, k Key) error {
	return c.call(ctx, http.MethodDelete, workloadPath(k), nil, nil)
}

func (f Filter) query() url.Values {
	query := url.Values{}
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	set("name", f.Name)
	set("network", f.Network)
	set("pool", f.Pool)
	set("container", f.Container)
	set("start", f.Start)
	if f.Address.IsValid() {
		set("address", f.Address.String())
	}
	if f.Within.IsValid() {
		set("within", f.Within.String())
	}
	return query
}

// List gives all workloads that match, sorted by key. They are read in pages:
// what changes meanwhile may be in the list or not.
func (c *Client) List(ctx context.Context, f Filter) ([]Workload, error) {
	query := f.query()
	query.Set("limit", "1000")
	var all []Workload
	for {
		page, err := answer[Page](ctx, c, http.MethodGet, "/v1/workloads?"+query.Encode(), nil)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Workloads...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("after", page.Next)
	}
}

// Whois says who has the address and port, or had them at the given time; the
// zero time is now. ErrNotFound when nobody had.
func (c *Client) Whois(ctx context.Context, a netip.AddrPort, at time.Time) (Owner, error) {
	query := url.Values{"address": {a.String()}}
	if !at.IsZero() {
		query.Set("at", at.Format(time.RFC3339Nano))
	}
	return answer[Owner](ctx, c, http.MethodGet, "/v1/whois?"+query.Encode(), nil)
}

// Owners says who has the address, or its port, or had them at the given time; the
// zero time is now, and port -1 any. Nobody is no error.
func (c *Client) Owners(ctx context.Context, a netip.Addr, port int, at time.Time) (Owners, error) {
	query := url.Values{"address": {a.String()}}
	if port >= 0 {
		query.Set("port", strconv.Itoa(port))
	}
	if !at.IsZero() {
		query.Set("at", at.Format(time.RFC3339Nano))
	}
	return answer[Owners](ctx, c, http.MethodGet, "/v1/owners?"+query.Encode(), nil)
}

// Explain says what would become of the packet that the words describe.
func (c *Client) Explain(ctx context.Context, words string) (Explanation, error) {
	return answer[Explanation](ctx, c, http.MethodGet, "/v1/explain?"+url.Values{"packet": {words}}.Encode(), nil)
}

// Pools says how full the pools are.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	p, err := answer[Pools](ctx, c, http.MethodGet, "/v1/pools", nil)
	return p.Pools, err
}

// FullestPools is Pools with no more than a number of addresses each, the fullest.
func (c *Client) FullestPools(ctx context.Context, most int) ([]Pool, error) {
	p, err := answer[Pools](ctx, c, http.MethodGet, "/v1/pools?addresses="+strconv.Itoa(most), nil)
	return p.Pools, err
}

// Status gives the daemon at a glance.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return answer[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Drain has no new workload given anything of a pool, or for "" of the whole host; those
// that have something keep it. It lasts until Undrain, over restarts.
func (c *Client) Drain(ctx context.Context, pool string) (Drain, error) {
	return answer[Drain](ctx, c, http.MethodPut, drainPath(pool), nil)
}

// Undrain undoes Drain. ErrNotFound where it is not drained.
func (c *Client) Undrain(ctx context.Context, pool string) error {
	return c.call(ctx, http.MethodDelete, drainPath(pool), nil, nil)
}

// Drains gives what is drained, and who is left there.
func (c *Client) Drains(ctx context.Context) ([]Drain, error) {
	d, err := answer[Drains](ctx, c, http.MethodGet, "/v1/drains", nil)
	return d.Drains, err
}

func drainPath(pool string) string {
	if pool == "" {
		return "/v1/drains/host"
	}
	return "/v1/drains/pools/" + url.PathEscape(pool)
}

// Reload makes the daemon read its config again. When it is wrong the error
// says why, and nothing has changed.
func (c *Client) Reload(ctx context.Context) (Reload, error) {
	return answer[Reload](ctx, c, http.MethodPost, "/v1/reload", nil)
}

// Backup writes a copy of the registry, as it is now, and says how long it is.
// After an error what was written is worth nothing.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	resp, err := c.open(ctx, http.MethodGet, "/v1/registry", nil, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, fmt.Errorf("backup: %w", err)
	}
	return n, nil
}

// Profile takes a profile of the daemon, as api.pprof allows.
func (c *Client) Profile(ctx context.Context, name string) ([]byte, error) {
	resp, err := c.open(ctx, http.MethodGet, "/v1/pprof/"+url.PathEscape(name), nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
}

// Health is nil when the daemon is ready, ErrStarting when it is not yet and
// ErrUnavailable when nobody answers.
func (c *Client) Health(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/v1/health", nil, new(Health))
}

func workloadPath(k Key) string {
	return "/v1/workloads/" + url.PathEscape(k.ContainerID) + "/" + url.PathEscape(k.Interface)
}

func answer[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, method, path, in, &out)
	return out, err
}

// call sends one request and decodes the answer, or the problem.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	var header http.Header
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return &Problem{Code: CodeInvalid, Detail: err.Error(), Err: err}
		}
		body, header = bytes.NewReader(b), http.Header{"Content-Type": {"application/json"}}
	}
	resp, err := c.open(ctx, method, path, header, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.unavailable(err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return &Problem{Code: CodeInternal, Status: resp.StatusCode, Detail: "answer of natlessd: " + err.Error(), Err: err}
	}
	return nil
}

// open sends one request and gives the answer, whose body the caller closes, or the
// problem that it is.
func (c *Client) open(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://natless"+path, body)
	if err != nil {
		return nil, &Problem{Code: CodeInvalid, Detail: err.Error(), Err: err}
	}
	maps.Copy(req.Header, header)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unavailable(err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.unavailable(err)
	}
	return nil, problemOf(resp.StatusCode, answer)
}

func (c *Client) unavailable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.Canceled) { // the asker's doing
		return fmt.Errorf("interrupted before natlessd answered on %s (%w)", c.socket, err)
	}
	return &Problem{Code: CodeUnavailable, Detail: fmt.Sprintf("natlessd does not answer on %s: %v", c.socket, err), Err: err}
}

// problemOf reads the body of an error; one that is not a problem document is
// quoted.
func problemOf(status int, body []byte) error {
	p := new(Problem)
	if err := json.Unmarshal(body, p); err != nil || p.Code == "" {
		return &Problem{Code: CodeInternal, Status: status, Detail: fmt.Sprintf("HTTP %d: %.200q", status, body)}
	}
	return p
}
