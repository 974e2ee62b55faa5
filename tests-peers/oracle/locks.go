package main

import "fmt"

func (r *run) lock(s step) error { return fmt.Errorf("no such step: %v", s) }
