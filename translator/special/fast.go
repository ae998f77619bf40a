package special

// What the table says, for addresses as numbers and for each packet. The
// functions hold no rule of their own: TestFast walks the table.

// Never4 says that the IPv4 address a is translated in no mode.
func Never4(a uint32) bool {
	return a>>24 == 0 || a>>24 == 127 || a>>24 >= 224 || a>>16 == 169<<8|254
}

// Never6 says it of the IPv6 address whose halves are hi and lo.
func Never6(hi, lo uint64) bool {
	return hi>>54 == 0xfe80>>6 || hi>>56 == 0xff || hi == 0 && (lo <= 1 || lo>>32 == 0xffff)
}

// Many4 says that the IPv4 address a, as a source, names no one host: multicast
// and all-ones. All others may be the source of an ICMPv4 error, however odd
// (RFC 7915 4.1).
func Many4(a uint32) bool { return a>>28 == 14 || a == 1<<32-1 }

// Global4 says that the IPv4 address a is globally reachable, so that it may
// stand in the well-known prefix (RFC 6052 3.1).
func Global4(a uint32) bool {
	switch a >> 24 {
	case 0, 10, 127:
		return false
	case 100:
		return a>>22 != 100<<2|1 // 100.64.0.0/10
	case 169:
		return a>>16 != 169<<8|254
	case 172:
		return a>>20 != 172<<4|1 // 172.16.0.0/12
	case 192:
		if a>>8 == 192<<16 { // 192.0.0.0/24 …
			return a&0xff == 9 || a&0xff == 10 // … has two anycast addresses
		}
		return a>>16 != 192<<8|168 && a>>8 != 192<<16|2 // 192.168.0.0/16, 192.0.2.0/24
	case 198:
		return a>>17 != 198<<7|9 && a>>8 != 198<<16|51<<8|100 // 198.18.0.0/15, 198.51.100.0/24
	case 203:
		return a>>8 != 203<<16|0<<8|113 // 203.0.113.0/24
	}
	return a>>24 < 224
}
