package shed

import (
	"errors"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/natless/natless/translator/mapping"
)

// knownMost is how many blocks of addresses, and of addresses and ports, the policer in the
// kernel knows at most. Where there are more, the loops tell strangers.
const knownMost = 32768

var errMany = errors.New("there are too many workloads")

// known is what the policer in the kernel knows all workloads by, while strangers have a limit.
type known struct {
	table     *mapping.Table // as of which it knows them; nil: it knows nobody
	senders   map[filterSender]struct{}
	receivers map[filterReceiver]struct{}
}

// strangers gives those who are no workload a place.
func (f *filter) strangers(l *limited, t *mapping.Table) error {
	if err := f.know(t); err != nil {
		return err
	}
	if err := f.place(l); err != nil {
		return err
	}
	l.inKernel.Store(true)
	return f.objects.Strangers.Put(uint32(l.way), l.index+1)
}

// know has the policer know the workloads of a table.
func (f *filter) know(t *mapping.Table) error {
	if f.known.table == t {
		return nil
	}
	senders, receivers, err := blocksOf(t)
	if err != nil {
		return err
	}
	if err := errors.Join(follow(f.objects.Known6, f.known.senders, senders), follow(f.objects.Known4, f.known.receivers, receivers)); err != nil {
		return err
	}
	f.known = known{t, senders, receivers}
	return nil
}

// blocksOf are the addresses of all workloads, and the addresses and ports.
func blocksOf(t *mapping.Table) (map[filterSender]struct{}, map[filterReceiver]struct{}, error) {
	senders, receivers := map[filterSender]struct{}{}, map[filterReceiver]struct{}{}
	for e := range t.Entries() {
		m := e.Mapping()
		senders[senderOf(m)] = struct{}{}
		if m.Ports.IsZero() {
			receivers[receiverOf(m.IPv4)] = struct{}{}
		} else {
			for k := range blocks(m.IPv4.Addr(), m) {
				receivers[k] = struct{}{}
			}
		}
		if len(senders) > knownMost || len(receivers) > knownMost {
			return nil, nil, errMany
		}
	}
	return senders, receivers, nil
}

// follow makes a map in the kernel hold what is wanted, new ones first.
func follow[K comparable](m *ebpf.Map, have, want map[K]struct{}) error {
	for k := range want {
		if _, ok := have[k]; !ok {
			if err := m.Put(k, uint32(1)); err != nil {
				return err
			}
		}
	}
	for k := range have {
		if _, ok := want[k]; !ok {
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
	}
	return nil
}

func senderOf(m mapping.Mapping) filterSender {
	return filterSender{Length: uint32(m.IPv6.Bits()), Addr: m.IPv6.Addr().As16()}
}

func receiverOf(p netip.Prefix) filterReceiver {
	return filterReceiver{Length: uint32(p.Bits()), Addr: p.Addr().As4()}
}
