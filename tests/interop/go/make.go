package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	f_log "github.com/transparency-dev/formats/log"
	f_note "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	origin    = "go.example/log"
	largest   = 40
	tilesSize = 66_000
)

// entry gives the record of a leaf; the other side makes the same.
func entry(n int64) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "entry %d", n))
	return sum[:]
}

// A tree keeps all hashes in the order of x/mod's storage.
type tree struct{ hashes []tlog.Hash }

func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		found[i] = t.hashes[index]
	}
	return found, nil
}

func grow(size int64) (*tree, error) {
	t := &tree{}
	for n := range size {
		hashes, err := tlog.StoredHashes(n, entry(n), t)
		if err != nil {
			return nil, err
		}
		t.hashes = append(t.hashes, hashes...)
	}
	return t, nil
}

// seeded is a source of "random" bytes for keys that stay the same.
type seeded byte

func (s seeded) Read(data []byte) (int, error) {
	for i := range data {
		data[i] = byte(s)
	}
	return len(data), nil
}

func makeAll(foreign []byte) (*made, error) {
	t, err := grow(tilesSize)
	if err != nil {
		return nil, err
	}
	m := &made{TilesSize: tilesSize}
	for _, step := range []func(*made, *tree) error{makeNotes, makeCheckpoints, makeProofs, makeTiles} {
		if err := step(m, t); err != nil {
			return nil, err
		}
	}
	return m, cosignForeign(m, foreign)
}

func makeNotes(m *made, _ *tree) error {
	first, firstKey, err := note.GenerateKey(seeded(1), "first.example/key")
	if err != nil {
		return err
	}
	second, secondKey, err := note.GenerateKey(seeded(2), "zweiter.example/schlüssel")
	if err != nil {
		return err
	}
	var signers []note.Signer
	for _, skey := range []string{first, second} {
		signer, err := note.NewSigner(skey)
		if err != nil {
			return err
		}
		signers = append(signers, signer)
	}
	for _, text := range []string{"one line\n", "with\n\nan empty line\n", "\n", "ünïcode — and a dash\n"} {
		signed, err := note.Sign(&note.Note{Text: text}, signers...)
		if err != nil {
			return err
		}
		m.Notes = append(m.Notes,
			signedNote{string(signed), []string{firstKey, secondKey}, []string{"first.example/key", "zweiter.example/schlüssel"}},
			signedNote{string(signed), []string{secondKey}, []string{"zweiter.example/schlüssel"}},
		)
	}
	return nil
}

// witnesses gives two that cosign with Ed25519, and one whose algorithm we do not know.
func witnesses() (signers []note.Signer, keys []string, err error) {
	for i, name := range []string{"w1.go.example", "w2.go.example"} {
		skey, vkey, err := note.GenerateKey(seeded(3+i), name)
		if err != nil {
			return nil, nil, err
		}
		signer, err := f_note.NewSignerForCosignatureV1(skey)
		if err != nil {
			return nil, nil, err
		}
		key, err := f_note.VKeyToCosignatureV1(vkey)
		if err != nil {
			return nil, nil, err
		}
		signers, keys = append(signers, signer), append(keys, key)
	}
	skey, _, err := f_note.GenerateMLDSAKey("pq.go.example")
	if err != nil {
		return nil, nil, err
	}
	unknown, err := f_note.NewSignerForCosignatureV1(skey)
	return append(signers, unknown), keys, err
}

// times opens a checkpoint as its readers do, and tells when who cosigned.
func times(signed []byte, origin string, logKey string, keys []string) (map[string]int64, *f_log.Checkpoint, error) {
	log, err := f_note.NewVerifier(logKey)
	if err != nil {
		return nil, nil, err
	}
	var verifiers []note.Verifier
	for _, key := range keys {
		verifier, err := f_note.NewVerifierForCosignatureV1(key)
		if err != nil {
			return nil, nil, err
		}
		verifiers = append(verifiers, verifier)
	}
	head, _, opened, err := f_log.ParseCheckpoint(signed, origin, log, verifiers...)
	if err != nil {
		return nil, nil, err
	}
	found := map[string]int64{}
	for _, signature := range opened.Sigs {
		if signature.Name == log.Name() && signature.Hash == log.KeyHash() {
			continue
		}
		at, err := f_note.CoSigV1Timestamp(signature)
		if err != nil {
			return nil, nil, err
		}
		found[signature.Name] = at.Unix()
	}
	return found, head, nil
}

func makeCheckpoints(m *made, t *tree) error {
	skey, logKey, err := note.GenerateKey(seeded(5), origin)
	if err != nil {
		return err
	}
	log, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	signers, keys, err := witnesses()
	if err != nil {
		return err
	}
	for _, size := range []int64{0, 1, 5, largest, tilesSize} {
		root, err := tlog.TreeHash(size, t)
		if err != nil {
			return err
		}
		text := f_log.Checkpoint{Origin: origin, Size: uint64(size), Hash: root[:]}.Marshal()
		signed, err := note.Sign(&note.Note{Text: string(text)}, append([]note.Signer{log}, signers...)...)
		if err != nil {
			return err
		}
		found, head, err := times(signed, origin, logKey, keys)
		if err != nil {
			return err
		}
		m.Checkpoints = append(m.Checkpoints, checkpoint{
			string(signed), origin, logKey, keys, head.Size, hex.EncodeToString(head.Hash), found,
		})
	}
	return nil
}

// cosignForeign lets the witnesses of Go sign what another log made; the log's key is known
// to whoever gave the note.
func cosignForeign(m *made, foreign []byte) error {
	signers, keys, err := witnesses()
	if err != nil {
		return err
	}
	text, _, found := strings.Cut(string(foreign), "\n\n")
	if !found {
		return fmt.Errorf("the foreign checkpoint is no note")
	}
	signed, err := note.Sign(&note.Note{Text: text + "\n"}, signers...)
	if err != nil {
		return err
	}
	_, lines, _ := strings.Cut(string(signed), "\n\n")
	m.Checkpoints = append(m.Checkpoints, checkpoint{
		Note: string(foreign) + lines, Witnesses: keys, Times: map[string]int64{},
	})
	return nil
}

func makeProofs(m *made, t *tree) error {
	for size := int64(1); size <= largest; size++ {
		root, err := tlog.TreeHash(size, t)
		if err != nil {
			return err
		}
		for index := size % 5; index < size; index += 5 {
			proof, err := tlog.ProveRecord(size, index, t)
			if err != nil {
				return err
			}
			leaf := tlog.RecordHash(entry(index))
			m.Inclusion = append(m.Inclusion, inclusion{
				uint64(index), uint64(size), hex.EncodeToString(leaf[:]), hex.EncodeToString(root[:]), hexAll(proof),
			})
		}
		for old := 1 + size%6; old <= size; old += 6 {
			proof, err := tlog.ProveTree(size, old, t)
			if err != nil {
				return err
			}
			oldRoot, err := tlog.TreeHash(old, t)
			if err != nil {
				return err
			}
			m.Consistency = append(m.Consistency, consistency{
				uint64(old), uint64(size), hex.EncodeToString(oldRoot[:]), hex.EncodeToString(root[:]), hexAll(proof),
			})
		}
	}
	return nil
}

func hexAll(hashes []tlog.Hash) []string {
	texts := make([]string, len(hashes))
	for i, hash := range hashes {
		texts[i] = hex.EncodeToString(hash[:])
	}
	return texts
}

func makeTiles(m *made, t *tree) error {
	m.Tiles = map[string]string{}
	for _, tile := range tlog.NewTiles(8, 0, tilesSize) {
		data, err := tlog.ReadTileData(tile, t)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		// x/mod names the height first, which the specification of tiles leaves out.
		m.Tiles[strings.Replace(tile.Path(), "tile/8/", "tile/", 1)] = hex.EncodeToString(sum[:])
	}
	return nil
}
