package translator

// seeds are packets of all kinds for fuzzing to start from.
func seeds() (packets [][]byte) {
	add := func(b []byte) { packets = append(packets, b) }
	d := data(64)
	workloads := []struct{ a6, a4 string }{{work6, work4}, {other6, other4}, {sharedA6, shared4}, {ce6, ce4}}
	for _, x := range workloads {
		for _, server := range []string{server6, "64:ff9b::8.8.8.8", "2001:db8:64::198.51.100.9", other6} {
			add(hdr6{src: x.a6, dst: server, proto: 6}.packet(tcp(x.a6, server, 1030, 80, d)))
			add(hdr6{src: x.a6, dst: server, proto: 17}.packet(udp(x.a6, server, 1030, 2050, d)))
			add(hdr6{src: x.a6, dst: server, proto: 58}.packet(icmp6(x.a6, server, 128, 0, 5<<16|1, d)))
			ext := fragHdr(17, 0, true, 0x12345)
			add(hdr6{src: x.a6, dst: server, ext: ext, next: 44}.packet(udp(x.a6, server, 1030, 2050, d)))
			add(hdr6{src: x.a6, dst: server, ext: fragHdr(17, 72, false, 0x12345), next: 44}.packet(d))
		}
		inner := hdr4{src: x.a4, dst: server4, proto: 17}.packet(udp(x.a4, server4, 1030, 53, d))
		for _, typ := range []uint8{3, 11, 12} {
			add(hdr4{src: router4, dst: x.a4, proto: 1}.packet(icmp4(typ, 0, 0, inner)))
		}
		extended := append(append(inner, make([]byte, 128-len(inner))...), 0x20, 0, 0, 0, 0, 4, 1, 1)
		add(hdr4{src: router4, dst: x.a4, proto: 1}.packet(icmp4(11, 0, 32<<16, extended)))
		inner6 := hdr6{src: server6, dst: x.a6, proto: 6}.packet(tcp(server6, x.a6, 80, 1030, d))
		for typ := range uint8(4) {
			add(hdr6{src: x.a6, dst: server6, proto: 58}.packet(icmp6(x.a6, server6, typ+1, 0, 1300, inner6)))
			add(hdr6{src: inside6, dst: server6, proto: 58}.packet(icmp6(inside6, server6, typ+1, 1, 1300, inner6)))
		}
		add(hdr4{src: server4, dst: x.a4, proto: 6, flags: 0x4000}.packet(tcp(server4, x.a4, 80, 1030, d)))
		add(hdr4{src: server4, dst: x.a4, proto: 17}.packet(udp(server4, x.a4, 80, 1030, data(2000))))
		add(hdr4{src: server4, dst: x.a4, proto: 1}.packet(icmp4(0, 0, 1030<<16, d)))
		add(hdr4{src: server4, dst: x.a4, proto: 17, flags: 0x2000, id: 7}.packet(udp(server4, x.a4, 80, 1030, d)))
		add(hdr4{src: server4, dst: x.a4, proto: 17, flags: 9, id: 7}.packet(d))
		zero := udp(server4, x.a4, 80, 1030, d)
		zero[6], zero[7] = 0, 0
		add(hdr4{src: server4, dst: x.a4, proto: 17, options: []byte{131, 7, 4, 1, 2, 3, 4, 0}}.packet(zero))
	}
	routing := []byte{17, 0, 4, 1, 0, 0, 0, 0}
	add(hdr6{src: work6, dst: server6, ext: routing, next: 43}.packet(udp(work6, server6, 1, 2, d)))
	add(hdr6{src: work6, dst: own6, proto: 17}.packet(udp(work6, own6, 1, 2, d)))
	add(hdr4{src: server4, dst: own4, proto: 17}.packet(udp(server4, own4, 1, 2, d)))
	return packets
}
