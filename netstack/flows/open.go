package flows

// Reason is why a flow ended, as RFC 5102 5.11.3 numbers it.
type Reason uint8

// The reasons.
const (
	Idle   Reason = 1
	Active Reason = 2 // it goes on, in another record
	Ended  Reason = 3 // FIN both ways, or RST
	Forced Reason = 4 // who watches goes away
)

func (r Reason) String() string {
	switch r {
	case Idle:
		return "idle"
	case Active:
		return "active"
	case Ended:
		return "end"
	case Forced:
		return "forced"
	}
	return "open"
}

// Limits are those of open flows.
type Limits struct {
	Idle, Active int64 // nanoseconds
	Most         int
	Share        int // that one slot may have of them; 0: all
}

// linger is how long a TCP connection that has ended waits for its last packets.
const linger = 2e9

// Open is the flows that are open, of all queues and of the kernel together. One
// goroutine at a time uses it.
type Open struct {
	limits Limits
	at     map[Key]uint32
	chunks []*chunk // where the flows are, by at; First 0: nobody
	free   []uint32
	shares map[uint32]int // how many, by slot, where there are shares
}

const openChunk = 4096

type chunk [openChunk]owned

// NewOpen makes an Open without flows.
func NewOpen(l Limits) *Open { return &Open{limits: l, at: map[Key]uint32{}, shares: map[uint32]int{}} }

// Len is how many are open.
func (o *Open) Len() int { return len(o.at) }

// Merge puts what was seen of a flow to it. Of one that is new, owner says whose it
// is, now that this is known. false: there is no room for another one.
func (o *Open) Merge(k *Key, s *Sum, owner func(*Key, *Sum) any) bool {
	if at, known := o.at[*k]; known {
		o.entry(at).Sum.Add(s)
		return true
	}
	if len(o.at) >= o.limits.Most || o.limits.Share > 0 && o.shares[k.Slot] >= o.limits.Share {
		return false
	}
	if o.limits.Share > 0 {
		o.shares[k.Slot]++
	}
	if len(o.free) == 0 {
		o.grow()
	}
	at := o.free[len(o.free)-1]
	o.free = o.free[:len(o.free)-1]
	*o.entry(at) = owned{entry{*k, *s}, owner(k, s)}
	o.at[*k] = at
	return true
}

func (o *Open) entry(at uint32) *owned { return &o.chunks[at/openChunk][at%openChunk] }

func (o *Open) grow() {
	first := uint32(len(o.chunks) * openChunk)
	o.chunks = append(o.chunks, new(chunk))
	for i := uint32(openChunk); i > 0; i-- {
		o.free = append(o.free, first+i-1)
	}
}

// Expire closes what has ended by a time, before which all that was seen is merged.
func (o *Open) Expire(now int64, close func(*Key, *Sum, any, Reason)) {
	o.each(func(e *owned) {
		switch {
		case now-e.Last >= o.limits.Idle:
			o.close(e, Idle, close)
		case e.over(&e.Sum) && now-e.Last >= linger:
			o.close(e, Ended, close)
		case now-e.First >= o.limits.Active:
			o.close(e, Active, close)
		}
	})
	if len(o.at) == 0 && len(o.chunks) > 1 { // what many flows once took
		o.at, o.chunks, o.free = map[Key]uint32{}, nil, nil
	}
}

// End closes all.
func (o *Open) End(close func(*Key, *Sum, any, Reason)) {
	o.each(func(e *owned) { o.close(e, Forced, close) })
}

// Part shows those of one part, which nobody may keep, and says whether there is such a
// part. A flow stays in its part for as long as it is open.
func (o *Open) Part(n int, f func(*Key, *Sum, any)) bool {
	if n >= len(o.chunks) {
		return false
	}
	o.chunks[n].each(func(e *owned) { f(&e.Key, &e.Sum, e.owner) })
	return true
}

func (o *Open) each(f func(*owned)) {
	for _, c := range o.chunks {
		c.each(f)
	}
}

func (c *chunk) each(f func(*owned)) {
	for i := range c {
		if c[i].First != 0 {
			f(&c[i])
		}
	}
}

func (o *Open) close(e *owned, why Reason, close func(*Key, *Sum, any, Reason)) {
	close(&e.Key, &e.Sum, e.owner, why)
	if o.limits.Share > 0 {
		if o.shares[e.Slot]--; o.shares[e.Slot] == 0 {
			delete(o.shares, e.Slot)
		}
	}
	at := o.at[e.Key]
	delete(o.at, e.Key)
	*e = owned{}
	o.free = append(o.free, at)
}
