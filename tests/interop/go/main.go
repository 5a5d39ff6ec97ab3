// Command interop holds batpak's proofs against the libraries of the Go transparency world.
//
//	interop make NOTE          prints what Go makes: keys, notes, proofs, tiles; NOTE is the file
//	                           of a checkpoint of ours, which a witness of Go cosigns
//	interop check FILE FOLDER  verifies what we made: FILE has keys, notes and proofs, FOLDER a
//	                           tree of tiles; prints what was verified, exits 1 at the first fault
//
// Both forms are described beside the tests that use them, tests/support/interop.py.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

// A signedNote is a note and the names of those whose signatures have to be good.
type signedNote struct {
	Note    string   `json:"note"`
	Keys    []string `json:"keys"`
	Signers []string `json:"signers"`
}

// A checkpoint is the note of a log, and what is in it.
type checkpoint struct {
	Note      string           `json:"note"`
	Origin    string           `json:"origin"`
	LogKey    string           `json:"log_key"`
	Witnesses []string         `json:"witness_keys"`
	Size      uint64           `json:"size"`
	Root      string           `json:"root"`
	Times     map[string]int64 `json:"times"`
}

// An inclusion proof of RFC 9162: hashes in hex.
type inclusion struct {
	Index uint64   `json:"index"`
	Size  uint64   `json:"size"`
	Leaf  string   `json:"leaf"`
	Root  string   `json:"root"`
	Proof []string `json:"proof"`
}

// A consistency proof of RFC 9162.
type consistency struct {
	Old     uint64   `json:"old"`
	New     uint64   `json:"new"`
	OldRoot string   `json:"old_root"`
	NewRoot string   `json:"new_root"`
	Proof   []string `json:"proof"`
}

// A made is one side's work, for the other side to verify.
type made struct {
	Notes       []signedNote      `json:"notes"`
	Checkpoints []checkpoint      `json:"checkpoints"`
	Inclusion   []inclusion       `json:"inclusion"`
	Consistency []consistency     `json:"consistency"`
	TilesSize   uint64            `json:"tiles_size"`
	Tiles       map[string]string `json:"tiles"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "make":
		note, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		made, err := makeAll(note)
		if err != nil {
			return err
		}
		out := json.NewEncoder(os.Stdout)
		out.SetEscapeHTML(false)
		return out.Encode(made)
	case len(args) == 3 && args[0] == "check":
		text, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		var ours made
		if err := json.Unmarshal(text, &ours); err != nil {
			return err
		}
		counts, err := checkAll(&ours, args[2])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(counts)
	default:
		return fmt.Errorf("usage: interop make NOTE | interop check FILE FOLDER")
	}
}

func unhex(text string) ([]byte, error) {
	raw, err := hex.DecodeString(text)
	if err == nil && len(raw) != 32 {
		err = fmt.Errorf("a hash of %d bytes", len(raw))
	}
	return raw, err
}

func unhexAll(texts []string) ([][]byte, error) {
	all := make([][]byte, len(texts))
	for i, text := range texts {
		raw, err := unhex(text)
		if err != nil {
			return nil, err
		}
		all[i] = raw
	}
	return all, nil
}
