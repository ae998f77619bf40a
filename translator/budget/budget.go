// Package budget shares out what is scarce among many who ask for it, so that
// one who asks for much leaves the others theirs. For packets there are token
// buckets of one word and tables of them in fixed memory, which lock nothing and
// allocate nothing; who asks is a hash that the caller makes with a key of its
// own. For connections and requests there are Room and Turns. What is shared out
// is the caller's business: packets, sockets and clocks may not enter here.
package budget

import "sync/atomic"

// Rate is how much there is: so many a second in the long run, and a burst.
// Both are at least 1 and at most MaxRate.
type Rate struct{ PerSecond, Burst int }

// MaxRate bounds both parts of a Rate.
const MaxRate = 1_000_000

// Bucket is a token bucket that any number of goroutines share. It holds the
// time at which it will be full again (the generic cell rate algorithm), so that
// one atomic word is all its state.
//
// What one token costs is drawn between nothing and twice a token: whoever
// counts what a bucket lets through does not learn whether somebody else took
// from it as well, which is how ports of a resolver were found through the fixed
// budget of ICMP errors that a kernel had (CVE-2020-25705).
type Bucket struct{ full atomic.Int64 }

// Take says whether one more may pass at the time now, in nanoseconds of any
// steady clock. random is drawn anew for each call.
func (b *Bucket) Take(now int64, r Rate, random uint64) bool {
	each := int64(1e9) / int64(r.PerSecond)
	return b.take(now, each, each*int64(r.Burst), random)
}

func (b *Bucket) take(now, each, depth int64, random uint64) bool {
	cost := each * int64(random&0xffff) >> 15
	for {
		was := b.full.Load()
		full := max(was, now)
		if full-now >= depth {
			return false
		}
		if b.full.CompareAndSwap(was, full+cost) {
			return true
		}
	}
}

const (
	placeBits = 13
	places    = 1 << placeBits
)

// Shares are the buckets of everybody: of any number of askers, in memory that
// does not grow (64 KiB). An asker has two half buckets, at places that its hash
// names, and takes from the second what the first does not have. So one who
// floods and shares one of its two places with another halves that one's budget;
// to have it whole both must fall on both, by a chance of one in 33 million for
// each pair. The hash must be made with a key that nobody knows, so that nobody
// can look for such a pair. The zero value is ready.
type Shares [places]Bucket

// Take is Bucket's, of the share of the asker with that hash.
func (s *Shares) Take(hash uint64, now int64, r Rate, random uint64) bool {
	first, second := hash%places, hash>>placeBits%places
	if first == second {
		second = (second + 1) % places
	}
	// Half the rate at the same depth in time is half the burst.
	each := int64(2e9) / int64(r.PerSecond)
	depth := each / 2 * int64(r.Burst)
	return s[first].take(now, each, depth, random) || s[second].take(now, each, depth, random>>16)
}
