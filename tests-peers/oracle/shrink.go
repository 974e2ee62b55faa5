package main

import (
	"fmt"
	"time"
)

// shrink leaves out of a sequence what its failure does not need, each try on a fresh pair.
func shrink(fresh func() (*pair, error), sequence []step, limit time.Duration) ([]step, error) {
	deadline := time.Now().Add(limit)
	fails := func(tried []step) error {
		p, err := fresh()
		if err != nil {
			return nil
		}
		defer p.stop()
		_, err = play(p, tried, nil)
		return err
	}
	found := fails(sequence)
	if found == nil {
		return sequence, fmt.Errorf("alone, on fresh servers, it does not fail again")
	}
	for size := len(sequence) / 2; size >= 1; size /= 2 {
		for from := len(sequence) - size; from >= 0 && time.Now().Before(deadline); from -= size {
			tried := append(append([]step(nil), sequence[:from]...), sequence[from+size:]...)
			if err := fails(tried); err != nil {
				sequence, found = tried, err
				from = min(from, len(sequence))
			}
		}
	}
	return sequence, found
}
