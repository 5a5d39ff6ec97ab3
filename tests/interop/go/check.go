package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func checkAll(m *made, folder string) (map[string]int, error) {
	counts := map[string]int{}
	for _, step := range []func(*made, string, map[string]int) error{
		checkNotes, checkCheckpoints, checkInclusion, checkConsistency, checkTiles,
	} {
		if err := step(m, folder, counts); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

func checkNotes(m *made, _ string, counts map[string]int) error {
	for _, n := range m.Notes {
		var verifiers []note.Verifier
		for _, key := range n.Keys {
			verifier, err := f_note.NewVerifier(key)
			if err != nil {
				return err
			}
			verifiers = append(verifiers, verifier)
		}
		opened, err := note.Open([]byte(n.Note), note.VerifierList(verifiers...))
		if err != nil {
			return fmt.Errorf("note %q: %w", n.Note, err)
		}
		var names []string
		for _, signature := range opened.Sigs {
			names = append(names, signature.Name)
		}
		if !slices.Equal(names, n.Signers) {
			return fmt.Errorf("note %q: signed by %v, not %v", n.Note, names, n.Signers)
		}
		counts["notes"]++
		// A changed text must not open.
		if _, err := note.Open([]byte("x"+n.Note), note.VerifierList(verifiers...)); err == nil {
			return fmt.Errorf("a changed note opens")
		}
		counts["refused"]++
	}
	return nil
}

func checkCheckpoints(m *made, _ string, counts map[string]int) error {
	for _, c := range m.Checkpoints {
		found, head, err := times([]byte(c.Note), c.Origin, c.LogKey, c.Witnesses)
		if err != nil {
			return fmt.Errorf("checkpoint %q: %w", c.Note, err)
		}
		if head.Size != c.Size || hex.EncodeToString(head.Hash) != c.Root {
			return fmt.Errorf("checkpoint %q: size %d and root %x", c.Note, head.Size, head.Hash)
		}
		if !maps.Equal(found, c.Times) {
			return fmt.Errorf("checkpoint %q: cosigned %v, not %v", c.Note, found, c.Times)
		}
		counts["checkpoints"]++
		counts["cosignatures"] += len(found)
		if _, _, err := times([]byte(c.Note), c.Origin+"x", c.LogKey, c.Witnesses); err == nil {
			return fmt.Errorf("a checkpoint of another origin is accepted")
		}
		counts["refused"]++
	}
	return nil
}

func hashOf(raw []byte) (h tlog.Hash) {
	copy(h[:], raw)
	return h
}

func hashesOf(raw [][]byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(raw))
	for i, one := range raw {
		hashes[i] = hashOf(one)
	}
	return hashes
}

func checkInclusion(m *made, _ string, counts map[string]int) error {
	for _, c := range m.Inclusion {
		three, err := unhexAll([]string{c.Leaf, c.Root})
		if err != nil {
			return err
		}
		hashes, err := unhexAll(c.Proof)
		if err != nil {
			return err
		}
		leaf, root := three[0], three[1]
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, c.Index, c.Size, leaf, hashes, root); err != nil {
			return fmt.Errorf("inclusion of %d in %d: %w", c.Index, c.Size, err)
		}
		if err := tlog.CheckRecord(hashesOf(hashes), int64(c.Size), hashOf(root), int64(c.Index), hashOf(leaf)); err != nil {
			return fmt.Errorf("inclusion of %d in %d, x/mod: %w", c.Index, c.Size, err)
		}
		counts["inclusion"]++
		root[0] ^= 1
		if proof.VerifyInclusion(rfc6962.DefaultHasher, c.Index, c.Size, leaf, hashes, root) == nil {
			return fmt.Errorf("inclusion in another root is accepted")
		}
		counts["refused"]++
	}
	return nil
}

func checkConsistency(m *made, _ string, counts map[string]int) error {
	for _, c := range m.Consistency {
		roots, err := unhexAll([]string{c.OldRoot, c.NewRoot})
		if err != nil {
			return err
		}
		hashes, err := unhexAll(c.Proof)
		if err != nil {
			return err
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, c.Old, c.New, hashes, roots[0], roots[1]); err != nil {
			return fmt.Errorf("consistency of %d and %d: %w", c.Old, c.New, err)
		}
		if c.Old > 0 {
			if err := tlog.CheckTree(hashesOf(hashes), int64(c.New), hashOf(roots[1]), int64(c.Old), hashOf(roots[0])); err != nil {
				return fmt.Errorf("consistency of %d and %d, x/mod: %w", c.Old, c.New, err)
			}
		}
		counts["consistency"]++
	}
	return nil
}

// ourTiles reads tiles as the specification names them, for x/mod.
type ourTiles struct {
	folder string
	read   int
}

func (o *ourTiles) Height() int { return 8 }

func (o *ourTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := layout.TilePath(uint64(tile.L), uint64(tile.N), uint8(tile.W%256))
		data, err := os.ReadFile(filepath.Join(o.folder, filepath.FromSlash(path)))
		if err != nil {
			return nil, err
		}
		found[i] = data
		o.read++
	}
	return found, nil
}

func (o *ourTiles) SaveTiles([]tlog.Tile, [][]byte) {}

// checkTiles reads the published folder of the newest checkpoint: its tiles lead to the root,
// each entry is the leaf that they have, and x/mod proves from them what we prove.
func checkTiles(m *made, folder string, counts map[string]int) error {
	if len(m.Checkpoints) == 0 || m.TilesSize == 0 {
		return fmt.Errorf("no tiles to check")
	}
	var root tlog.Hash
	for _, c := range m.Checkpoints {
		if c.Size == m.TilesSize {
			raw, err := unhex(c.Root)
			if err != nil {
				return err
			}
			root = hashOf(raw)
		}
	}
	size := int64(m.TilesSize)
	tiles := &ourTiles{folder: folder}
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, tiles)
	for index := int64(0); index < size; index += 1 + size/50 {
		record, err := tlog.ProveRecord(size, index, reader)
		if err != nil {
			return err
		}
		hashes, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(record, size, root, index, hashes[0]); err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(layout.EntriesPathForLogIndex(uint64(index), m.TilesSize))))
		if err != nil {
			return err
		}
		bundle := &api.EntryBundle{}
		if err := bundle.UnmarshalText(data); err != nil {
			return err
		}
		want := rfc6962.DefaultHasher.HashLeaf(bundle.Entries[index%256])
		if !bytes.Equal(want, hashes[0][:]) {
			return fmt.Errorf("entry %d is not leaf %d", index, index)
		}
		counts["entries"]++
	}
	counts["tiles"] = tiles.read
	return nil
}
