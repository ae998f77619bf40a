package reference

// typeTo6 is the table "Errors 4→6" of section 6.
func (c *call) typeTo6(in message) (message, bool) {
	out := message{}
	rule := ""
	switch in.typ {
	case 3:
		switch in.code {
		case 0, 1, 5, 6, 7, 8, 11, 12:
			rule, out.typ, out.code = "6.to6.3-unreachable", 1, 0
		case 2:
			rule, out.typ, out.code, out.rest = "6.to6.3-protocol", 4, 1, 6
		case 3:
			rule, out.typ, out.code = "6.to6.3-port", 1, 4
		case 4:
			rule, out.typ, out.code = "6.to6.3-fragmentation", 2, 0
			out.rest = uint32(c.mtuTo6(int(in.rest&0xffff), in.quote))
		case 9, 10, 13, 15:
			rule, out.typ, out.code = "6.to6.3-prohibited", 1, 1
		case 14:
			c.rule("6.to6.3-14")
			return out, false
		default:
			c.rule("6.to6.3-other")
			return out, false
		}
	case 11:
		rule, out.typ, out.code = "6.to6.11", 3, in.code
	case 12:
		pointer, has := pointerTo6[int(in.rest>>24)]
		if in.code != 0 && in.code != 2 {
			c.rule("6.to6.12-other")
			return out, false
		}
		if !has {
			c.rule("6.pointer-to6")
			return out, false
		}
		c.rule("6.pointer-to6")
		rule, out.typ, out.code, out.rest = "6.to6.12", 4, 0, uint32(pointer)
	default:
		c.rule("6.to6.others")
		return out, false
	}
	c.rule(rule)
	return out, true
}

// typeTo4 is the table "Errors 6→4" of section 6.
func (c *call) typeTo4(in message) (message, bool) {
	out := message{}
	rule := ""
	switch in.typ {
	case 1:
		switch in.code {
		case 0, 2, 3:
			rule, out.typ, out.code = "6.to4.1-unreachable", 3, 1
		case 1:
			rule, out.typ, out.code = "6.to4.1-prohibited", 3, 10
		case 4:
			rule, out.typ, out.code = "6.to4.1-port", 3, 3
		default:
			c.rule("6.to4.1-other")
			return out, false
		}
	case 2:
		rule, out.typ, out.code = "6.to4.2", 3, 4
		out.rest = uint32(c.mtuTo4(int(in.rest)))
	case 3:
		rule, out.typ, out.code = "6.to4.3", 11, in.code
	case 4:
		switch in.code {
		case 0:
			pointer, has := pointerTo4(in.rest)
			if !has {
				c.rule("6.pointer-to4")
				return out, false
			}
			c.rule("6.pointer-to4")
			rule, out.typ, out.code, out.rest = "6.to4.4-0", 12, 0, uint32(pointer)<<24
		case 1:
			rule, out.typ, out.code = "6.to4.4-1", 3, 2
		default:
			c.rule("6.to4.4-other")
			return out, false
		}
	default:
		c.rule("6.to4.others")
		return out, false
	}
	c.rule(rule)
	return out, true
}

// pointerTo6 is "Pointer 4→6".
var pointerTo6 = map[int]int{
	0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6,
	12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24,
}

// pointerTo4 is "Pointer 6→4".
func pointerTo4(p uint32) (int, bool) {
	switch {
	case p == 0, p == 1:
		return int(p), true
	case p == 4, p == 5:
		return 2, true
	case p == 6:
		return 9, true
	case p == 7:
		return 8, true
	case p >= 8 && p <= 23:
		return 12, true
	case p >= 24 && p <= 39:
		return 16, true
	}
	return 0, false
}

var plateaus = []int{65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68}

// mtuTo6 is "MTU 4→6".
func (c *call) mtuTo6(reported int, quote []byte) int {
	c.rule("6.mtu-to6")
	if reported == 0 && len(quote) >= 4 {
		c.rule("6.mtu-to6-plateau")
		total := int(quote[2])<<8 | int(quote[3])
		for _, p := range plateaus {
			if p < total {
				reported = p
				break
			}
		}
	}
	return max(1280, min(reported+20, c.t.MTU6, c.t.MTU4+20))
}

// mtuTo4 is "MTU 6→4".
func (c *call) mtuTo4(reported int) int {
	c.rule("6.mtu-to4")
	return min(max(1280, reported)-20, c.t.MTU4, c.t.MTU6-20)
}
