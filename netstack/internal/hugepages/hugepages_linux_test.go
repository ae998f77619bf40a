package hugepages

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func parts(of ...[]uint64) Parts {
	return func(yield func(unsafe.Pointer, uintptr) bool) {
		for _, p := range of {
			if !yield(unsafe.Pointer(unsafe.SliceData(p)), 8*uintptr(len(p))) {
				return
			}
		}
	}
}

// TestAdvise has memory that is in use stand on large pages, and leaves alone what is
// little of its surroundings. What is there stays.
func TestAdvise(t *testing.T) {
	const pieces = 4
	big := make([]uint64, (pieces+1)*size/8) // pieces of it lie somewhere in it
	for i := range big {
		big[i] = uint64(i)
	}
	first := (uintptr(unsafe.Pointer(&big[0])) + size - 1) &^ (size - 1)
	skip := (first - uintptr(unsafe.Pointer(&big[0]))) / 8
	whole, few := big[skip:][:(pieces-1)*size/8], big[skip:][(pieces-1)*size/8:][:1000]
	n, err := Advise(parts(whole, few))
	if err == unix.EINVAL || err == unix.ENOMEM || err == unix.EAGAIN {
		t.Skipf("this kernel gives no large pages: %v", err)
	}
	if err != nil || n != pieces-1 {
		t.Fatalf("%d pieces, error %v; want %d", n, err, pieces-1)
	}
	if kB := large(t, uintptr(unsafe.Pointer(&whole[0]))); kB < (pieces-1)*size>>10 {
		t.Errorf("%d kB stand on large pages", kB)
	}
	for i := range big {
		if big[i] != uint64(i) {
			t.Fatalf("word %d is %d", i, big[i])
		}
	}
	runtime.KeepAlive(big)
}

// large is how many kB stand on large pages in the mapping that has an address.
func large(t *testing.T, at uintptr) (kB int) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := false
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if from, to, ok := strings.Cut(fields[0], "-"); ok {
			a, _ := strconv.ParseUint(from, 16, 64)
			b, _ := strconv.ParseUint(to, 16, 64)
			in = uint64(at) >= a && uint64(at) < b
		} else if in && fields[0] == "AnonHugePages:" {
			kB, _ = strconv.Atoi(fields[1])
		}
	}
	return kB
}

// TestNothing: of nothing nothing comes.
func TestNothing(t *testing.T) {
	if n, err := Advise(parts(nil, make([]uint64, 10))); n != 0 || err != nil {
		t.Errorf("%d pieces, error %v", n, err)
	}
}
