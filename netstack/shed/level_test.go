package shed

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// slowFair is the level found by trying.
func slowFair(demands []demand, capacity float64) float64 {
	got := func(level float64) (sum float64) {
		for _, d := range demands {
			sum += min(d.rate, level*d.weight)
		}
		return sum
	}
	low, high := 0.0, 1e9
	if got(high) < capacity {
		return 0
	}
	for range 200 {
		if middle := (low + high) / 2; got(middle) < capacity {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}

// TestFair: what is to be had is shared out whole, nobody gets more than a level or less
// than he wants below it.
func TestFair(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 2000 {
		var demands []demand
		for i := range 1 + r.IntN(20) {
			demands = append(demands, demand{slot: uint32(i), rate: 1 + math.Exp(r.Float64()*12), weight: []float64{0.25, 1, 4}[r.IntN(3)]})
		}
		capacity := 1 + math.Exp(r.Float64()*14)
		got, want := fair(demands, capacity), slowFair(demands, capacity)
		if math.Abs(got-want) > 1e-6*max(got, want, 1) {
			t.Fatalf("%d: %v for %v of %v, want %v", n, got, capacity, demands, want)
		}
	}
}

// busy is a host of two processors of which nothing is left.
func busy(spent, packets float64) *measured {
	return &measured{over: time.Second, cpus: 2, spent: time.Duration(spent * float64(time.Second)), packets: packets, company: true}
}

// TestLevelBegins: who brings most gives way where the processors have nothing left, and
// only if there is somebody besides.
func TestLevelBegins(t *testing.T) {
	t.Parallel()
	flooder, other := demand{slot: 1, rate: 500_000, weight: 1}, demand{slot: 2, rate: 1000, weight: 1}
	for name, c := range map[string]struct {
		m       *measured
		demands []demand
		want    bool
	}{
		"a flooder and another":                 {busy(1, 600_000), []demand{flooder, other}, true},
		"a flooder alone":                       {busy(1, 600_000), []demand{flooder, {slot: 1, way: Received, rate: 400_000, weight: 1}}, false},
		"many small ones":                       {busy(1, 600_000), []demand{other, {slot: 3, rate: 20_000, weight: 1}}, false},
		"streams of superpackets":               {busy(1, 150_000), []demand{{slot: 1, rate: 20_000, weight: 1}, {slot: 2, rate: 18_000, weight: 1}}, false},
		"who may four times as much":            {busy(1, 600_000), []demand{{slot: 1, rate: 150_000, weight: 4}, other}, false},
		"who may a quarter":                     {busy(1, 600_000), []demand{{slot: 1, rate: 30_000, weight: 0.25}, other}, true},
		"a neighbour that gets hardly anything": {busy(1, 600_000), []demand{flooder, {slot: 2, rate: 10, weight: 1}}, true},
		"a flooder beside the fast path's":      {&measured{over: time.Second, cpus: 2, spent: time.Second, packets: 6e5, elsewhere: true}, []demand{flooder}, true},
	} {
		var l level
		c.m.company = c.m.elsewhere || company(c.demands)
		if l.begin(c.m, c.demands); (l.packets > 0) != c.want {
			t.Errorf("%s: level %v", name, l.packets)
		}
	}
}

// TestLevelFollows: the level falls to what anyone may have while nothing is left, rises
// while something is, and ends when nobody was over it for a time.
func TestLevelFollows(t *testing.T) {
	t.Parallel()
	demands := []demand{{slot: 1, rate: 1e6, weight: 1}, {slot: 2, rate: 1000, weight: 1}}
	var l level
	l.begin(busy(1, 600_000), demands)
	floor := l.packets
	if want := 600_000 * 2 * least; math.Abs(floor-want) > 1 {
		t.Fatalf("level %v, want %v", floor, want)
	}
	idle := busy(0.1, 60_000)
	idle.idle = 0.5
	for range 100 {
		l.step(idle, demands, true)
	}
	if l.packets < 1e6 || l.packets > 2e6 {
		t.Errorf("with much left, level %v", l.packets)
	}
	for range 100 {
		l.step(busy(1, 600_000), demands, true)
	}
	if l.packets != floor {
		t.Errorf("with nothing left, level %v, want %v", l.packets, floor)
	}
	for range calmLooks {
		l.step(busy(0.01, 1000), demands, false)
	}
	if l.packets != 0 {
		t.Errorf("level %v, and nobody is over it", l.packets)
	}
}

// TestLevelLost: what the queues lose is lost by those who bring most, also where nobody
// brings more than anyone may.
func TestLevelLost(t *testing.T) {
	t.Parallel()
	demands := []demand{{slot: 1, rate: 20_000, weight: 1}, {slot: 2, rate: 5000, weight: 1}, {slot: 3, rate: 18_000, weight: 4}}
	m := busy(2, 40_000)
	m.lost = 3000
	var l level
	l.begin(m, demands)
	if l.packets < 16_000 || l.packets > 18_000 {
		t.Errorf("level %v", l.packets)
	}
}

// TestLevelDrowned: where a quarter of all is lost in front of the queues, nobody knows of
// a neighbour whose packets are among it. Who brings most is held to what comes through,
// follows what the queues take, and falls to the floor when somebody else is heard of.
func TestLevelDrowned(t *testing.T) {
	t.Parallel()
	demands := []demand{{slot: 1, rate: 400_000, weight: 1}}
	m := busy(1, 600_000)
	m.company = false
	var l level
	m.lost = 40_000
	if l.begin(m, demands); l.packets != 0 {
		t.Fatalf("level %v, and hardly anything is lost", l.packets)
	}
	m.lost = 900_000
	if l.begin(m, demands); l.packets < l.floor || l.packets > 400_000 {
		t.Fatalf("level %v", l.packets)
	}
	const takes = 600_000 // the queues, a second
	demands[0].rate = 1_300_000
	passed := 0.0
	for range 100 {
		m.lost = uint64(max(0, min(l.packets, 1_300_000)-takes))
		l.step(m, demands, true)
		passed += min(l.packets, takes) / 100
	}
	if passed < takes*8/10 || l.packets > 2*takes {
		t.Errorf("%.0f a second passed, of %d that the queues take; level %v", passed, takes, l.packets)
	}
	ended := l
	m.lost = 0
	for range looksAlone {
		ended.step(m, []demand{{slot: 1, rate: 1000, weight: 1}}, false)
	}
	if ended.packets != 0 {
		t.Errorf("level %v, and he has stopped", ended.packets)
	}
	m.lost, m.company = 0, true
	for range 100 {
		l.step(m, append(demands, demand{slot: 2, rate: 10, weight: 1}), true)
	}
	if l.packets != l.floor {
		t.Errorf("level %v beside a neighbour, the floor is %v", l.packets, l.floor)
	}
}

// TestRate: over any time no more gets through than the rate and its burst, and of what
// comes slower, nothing is lost.
func TestRate(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		perSecond := 10 + math.Exp(r.Float64()*10)
		x := rateOf(perSecond, unit, unit)
		now, until, passed := int64(1e15), int64(0), 0
		for end := now + int64(time.Second); now < end; now += int64(1e9 / perSecond / 30) {
			if next := x.after(until, now, unit); next != 0 {
				until, passed = next, passed+1
			}
		}
		if most := perSecond*1.02 + 2; float64(passed) > most*1.01 || float64(passed) < perSecond*0.95-2 {
			t.Errorf("%v a second: %d passed", perSecond, passed)
		}
	}
	for _, perSecond := range []float64{1, 3, 50} { // slower than one in a burst
		x, until := rateOf(perSecond, unit, unit), int64(0)
		for now := int64(1e15); now < 1e15+1e10; now += int64(1.05e9 / perSecond) {
			if until = x.after(until, now, unit); until == 0 {
				t.Fatalf("%v a second: dropped though it came slower", perSecond)
			}
		}
	}
}

// TestShareDrains: who brings forty times his share gets it whole, and many packets at once: not
// one now and then, for which somebody has to wake up.
func TestShareDrains(t *testing.T) {
	t.Parallel()
	const a, over = 10_000, 400_000
	x, until := rateOf(a, unit, unit), int64(0)
	passed, runs, last := 0, 0, false
	for i := range int64(over) {
		next, dropped := x.share(until, 1e15+i*int64(time.Second)/over)
		until = next
		if !dropped {
			passed++
		}
		if !dropped && !last {
			runs++
		}
		last = !dropped
	}
	if passed < a*9/10 || passed > a*11/10 {
		t.Errorf("%d of %d passed in a second, at %d a second", passed, over, a)
	}
	if runs > int(time.Second/burst)+1 {
		t.Errorf("they passed in %d runs", runs)
	}
}
