package route

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/natless/natless/netstack/dump"
)

// Written on the raw messages because vishvananda/netlink knows no
// NDA_PROTOCOL, by which ours are told from those of others (Linux 5.2; before
// it, all proxy neighbours look like nobody's and stay after a kill).

const ndaProtocol = 12 // NDA_PROTOCOL of linux/neighbour.h

// ndmsg is struct ndmsg of linux/neighbour.h for a proxy neighbour.
func ndmsg(family byte, index int) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:8], uint32(index))
	b[10] = unix.NTF_PROXY
	return b
}

func (k *linuxKernel) proxies() ([]proxy, error) {
	msgs, err := dump.Messages(k.conn, mdl.Message{
		Header: mdl.Header{Type: unix.RTM_GETNEIGH, Flags: mdl.Request | mdl.Dump},
		Data:   ndmsg(unix.AF_UNSPEC, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("list proxy neighbours: %w", err)
	}
	return k.parseProxies(msgs)
}

func (k *linuxKernel) parseProxies(msgs []mdl.Message) ([]proxy, error) {
	names := map[int32]string{}
	var out []proxy
	for _, m := range msgs {
		if len(m.Data) < unix.SizeofNdMsg || m.Data[0] != unix.AF_INET && m.Data[0] != unix.AF_INET6 || m.Data[10]&unix.NTF_PROXY == 0 {
			continue
		}
		ad, err := mdl.NewAttributeDecoder(m.Data[unix.SizeofNdMsg:])
		if err != nil {
			return nil, fmt.Errorf("list proxy neighbours: %w", err)
		}
		var p proxy
		ours := false
		for ad.Next() {
			switch ad.Type() {
			case unix.NDA_DST:
				p.addr, _ = netip.AddrFromSlice(ad.Bytes())
			case ndaProtocol:
				ours = ad.Uint8() == Protocol
			}
		}
		if !ours {
			continue
		}
		index := int32(binary.NativeEndian.Uint32(m.Data[4:8]))
		if names[index] == "" {
			if l, err := k.handle.LinkByIndex(int(index)); err == nil {
				names[index] = l.Attrs().Name
			}
		}
		p.dev = names[index]
		out = append(out, p)
	}
	return out, nil
}

func (k *linuxKernel) changeProxy(remove bool, p proxy) error {
	l, err := k.handle.LinkByName(p.dev)
	if err != nil {
		if remove {
			return nil // gone with its interface
		}
		return fmt.Errorf("uplink: %w", err)
	}
	ae := mdl.NewAttributeEncoder()
	ae.Bytes(unix.NDA_DST, p.addr.AsSlice())
	m := mdl.Message{Header: mdl.Header{Type: unix.RTM_DELNEIGH, Flags: mdl.Request | mdl.Acknowledge}}
	if !remove {
		m.Header.Type = unix.RTM_NEWNEIGH
		m.Header.Flags |= mdl.Create | mdl.Replace
		ae.Uint8(ndaProtocol, Protocol)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	family := byte(unix.AF_INET)
	if p.addr.Is6() {
		family = unix.AF_INET6
	}
	m.Data = append(ndmsg(family, l.Attrs().Index), attrs...)
	_, err = k.conn.Execute(m)
	if remove {
		err = ignore(err, unix.ENOENT, unix.ENODEV)
	}
	return err
}
