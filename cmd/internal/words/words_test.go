package words

import "testing"

func TestCount(t *testing.T) {
	for want, got := range map[string]string{
		"0 workloads":                   Count(0, "workload"),
		"1 workload":                    Count(1, "workload"),
		"2 entries of history":          Count(2, "entry of history"),
		"1 entry of history":            Count(1, "entry of history"),
		"3 addresses":                   Count(3, "address"),
		"4 gateways":                    Count(uint64(4), "gateway"),
		"1 packet from outside its set": Count(1, "packet from outside its set"),
		"1 past assignment":             Number(1, "past assignment", "past assignments"),
		"0 past assignments":            Number(0, "past assignment", "past assignments"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSome(t *testing.T) {
	if got := Some([]string{"a", "b", "c"}, 2); got != "a, b and 1 more" {
		t.Error(got)
	}
	if got := Some([]string{"a", "b"}, 2); got != "a, b" {
		t.Error(got)
	}
}
