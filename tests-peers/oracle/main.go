// Package main is the differential oracle: it plays sequences of requests against etcd's own server,
// which it runs within itself, and against an adapter, and compares what both say, field by field.
//
// A sequence is drawn from its seed. Both servers live through the same sequences one after the other,
// so that their revisions are the same and need no translation; each sequence begins by deleting and
// compacting everything, so that it means the same alone, on fresh servers, as after thousands of others.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

func main() {
	var (
		adapter   = flag.String("adapter", "", "the etcd-adapter to run, `PROGRAM`")
		endpoint  = flag.String("endpoint", "", "or where one listens, `HOST:PORT`; it must be fresh, and nobody else's")
		seed      = flag.Int64("seed", 1, "the first sequence's seed")
		sequences = flag.Int64("sequences", 1, "how many sequences, of seeds that follow each other")
		steps     = flag.Int("steps", 40, "steps a sequence")
		workers   = flag.Int("workers", 1, "pairs of servers that play at once")
		limit     = flag.Duration("limit", time.Hour, "begin no sequence after so long")
		verbose   = flag.Bool("v", false, "print each step")
		all       = flag.Bool("cases", false, "play the named cases first")
		keep      = flag.Bool("keep-going", false, "look for more failures after the first")
		texts     = flag.Bool("texts", false, "only compare the errors on the standard input with etcd's")
	)
	flag.Parse()
	if *texts {
		if err := checkTexts(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if (*adapter == "") == (*endpoint == "") {
		fmt.Fprintln(os.Stderr, "one of --adapter and --endpoint, please")
		os.Exit(2)
	}
	fresh := func() (*pair, error) { return newPair(*adapter, *endpoint) }
	if *endpoint != "" {
		*workers = 1
	}
	begun := time.Now()
	failed := 0
	named := 0
	if *all {
		named, failed = playCases(fresh)
	}

	var mu sync.Mutex
	var played, taken, told int64
	next := *seed
	take := func() (int64, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next >= *seed+*sequences || time.Since(begun) > *limit || (failed > 0 && !*keep) {
			return 0, false
		}
		next++
		return next - 1, true
	}
	var wait sync.WaitGroup
	for range *workers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			var p *pair
			for {
				number, ok := take()
				if !ok {
					break
				}
				if p == nil {
					var err error
					if p, err = fresh(); err != nil {
						fmt.Fprintf(os.Stderr, "no servers: %v\n", err)
						mu.Lock()
						failed++
						mu.Unlock()
						return
					}
				}
				sequence := generate(number, *steps)
				var trace io.Writer
				if *verbose {
					trace = os.Stdout
				}
				r, err := play(p, sequence, trace)
				mu.Lock()
				played++
				taken += int64(r.steps)
				told += int64(r.events)
				if err != nil {
					failed++
					report(number, *steps, err)
				}
				mu.Unlock()
				if err != nil {
					p.stop()
					p = nil
					if *endpoint == "" && !*keep {
						least, again := shrink(fresh, sequence[:min(r.steps, len(sequence))], 60*time.Second)
						mu.Lock()
						fmt.Printf("  as little as this fails:\n")
						for i, s := range least {
							fmt.Printf("    %3d %v\n", i+1, s)
						}
						fmt.Printf("    with %v\n", again)
						mu.Unlock()
					}
				}
			}
			if p != nil {
				p.stop()
			}
		}()
	}
	wait.Wait()
	fmt.Printf("oracle: %d named cases, %d sequences, %d steps, %d events compared, %d failed, %.1f s\n",
		named, played, taken, told, failed, time.Since(begun).Seconds())
	if failed > 0 {
		os.Exit(1)
	}
}

func report(seed int64, steps int, err error) {
	fmt.Printf("seed %d fails at %v\n  again with: --seed %d --steps %d\n", seed, err, seed, steps)
}
