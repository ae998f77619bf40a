package translator

import "testing"

// Every verdict has a name that parses back, no two the same, and a section.
func TestVerdictNames(t *testing.T) {
	seen := map[string]bool{}
	for v := range NumVerdicts {
		for _, v := range []Verdict{v, v | Replied} {
			name := v.String()
			if seen[name] || name == "" {
				t.Errorf("%d: name %q is empty or taken", v, name)
			}
			seen[name] = true
			if v.Section() == "" {
				t.Errorf("%v has no section", v)
			}
			got, err := ParseVerdict(name)
			if v.Replied() && !v.IsDrop() {
				if err == nil {
					t.Errorf("ParseVerdict(%q) = %v: only drops can be replied to", name, got)
				}
				continue
			}
			if err != nil || got != v {
				t.Errorf("ParseVerdict(%q) = %v, %v", name, got, err)
			}
		}
	}
	for _, s := range []string{"", "replied", "/replied", "malformed/", "Malformed"} {
		if v, err := ParseVerdict(s); err == nil {
			t.Errorf("ParseVerdict(%q) = %v, want an error", s, v)
		}
	}
}

// So has each budget and kind of errors, which are metric labels too.
func TestBudgetNames(t *testing.T) {
	seen := map[string]bool{}
	for b := range NumBudgets {
		if seen[b.String()] || b.String() == "" {
			t.Errorf("budget %d: name %q is empty or taken", b, b)
		}
		seen[b.String()] = true
	}
	if OtherError.String() == TooBigError.String() {
		t.Error("both kinds of errors have one name")
	}
}

func TestVerdictKinds(t *testing.T) {
	for _, v := range []Verdict{Forward4, Forward6, Hairpin} {
		if !v.IsForward() || v.IsDrop() {
			t.Errorf("%v is to be written", v)
		}
	}
	for _, v := range []Verdict{Local, Segment} {
		if v.IsForward() || v.IsDrop() {
			t.Errorf("%v is neither written nor dropped", v)
		}
	}
	if v := TooBig | Replied; !v.IsDrop() || !v.Replied() || v.Reason() != TooBig || v.IsForward() {
		t.Errorf("%v: IsDrop %v, Replied %v, Reason %v", v, v.IsDrop(), v.Replied(), v.Reason())
	}
}
