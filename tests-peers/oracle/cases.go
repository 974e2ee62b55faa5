package main

func playCases(fresh func() (*pair, error)) int { return 0 }
