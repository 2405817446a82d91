package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/tink-crypto/tink-go/v2/tink"
	"go.uber.org/zap"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob/kms/aws"
	"consilium.dev/internal/blob/kms/azure"
	"consilium.dev/internal/blob/kms/call"
	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/blob/kms/gcp"
	"consilium.dev/internal/blob/kms/vault"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/keyring"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

// longestWait is the longest pause between two questions to a key-encryption key that does not answer at start.
const longestWait = time.Minute

// key opens a key-encryption key, and says who can open what it has sealed.
func (c Enclave) key(env daemon.Env, uri string, a attest.Attester) (keyring.Key, string, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	out, err := c.WayOut()
	if err != nil {
		return keyring.Key{}, "", err
	}
	var caller *call.Caller // of a service
	var k tink.AEADWithContext
	unwraps := ""
	switch scheme {
	case "file":
		_, path, _ := strings.Cut(env.URI(uri), ":")
		k, err := file.Open(path)
		if err != nil {
			return keyring.Key{}, "", err
		}
		return keyring.Key{URI: uri, AEAD: k, Old: k.Handle(), Unwraps: file.Unwraps}, file.Unwraps, nil
	case "vault":
		var key *vault.Key
		if key, err = vault.Open(rest); err == nil {
			k, unwraps, caller = key, vault.Unwraps, &key.Caller
		}
	case "gcp":
		var key *gcp.Key
		if key, err = gcp.Open(rest); err == nil {
			k, unwraps, caller = key, gcp.Unwraps, &key.Caller
		}
	case "azure":
		var key *azure.Key
		if key, err = azure.Open(rest); err == nil {
			k, unwraps, caller = key, azure.Unwraps, &key.Caller
		}
	case "aws":
		var key *aws.Key
		if key, err = aws.Open(rest, a); err == nil {
			k, unwraps, caller = key, key.Unwraps(), &key.Caller
		}
	default:
		err = fmt.Errorf("%.40q: want file:PATH, vault:https://HOST/MOUNT/KEY, aws:ARN, gcp:NAME or azure:https://VAULT/keys/KEY", uri)
	}
	if err != nil {
		return keyring.Key{}, "", err
	}
	if out != nil {
		caller.Client = call.Through(out.Dial)
	}
	return keyring.Key{URI: uri, AEAD: k, Unwraps: unwraps}, unwraps, nil
}

// TryKEK seals a few bytes by the key-encryption key and opens them again, opens the keyring of the store, if there is one already, and
// says what it has found and who else can open what is sealed. It stores nothing, and may be called beside the daemon. A key in a
// service is asked two or three times. The keyring is nil where there is none yet. [keyring.ErrKey]: the store rests under another key.
func (c *Enclave) TryKEK(ctx context.Context, env daemon.Env, a attest.Attester) (found string, ring store.Sealer, err error) {
	k, unwraps, err := c.key(env, c.KEK, a)
	if err != nil {
		return "", nil, fmt.Errorf("kek: %w", err)
	}
	text, label := []byte("a trial"), []byte("consilium trial v1")
	sealed, err := k.AEAD.EncryptWithContext(ctx, text, label)
	if err != nil {
		return "", nil, fmt.Errorf("kek: sealing: %w", err)
	}
	if got, err := k.AEAD.DecryptWithContext(ctx, sealed, label); err != nil {
		return "", nil, fmt.Errorf("kek: opening what it has sealed: %w", err)
	} else if !bytes.Equal(got, text) {
		return "", nil, errors.New("kek: what it has sealed opens as something else")
	}
	rests, ring, err := c.tryRing(ctx, env, k, a)
	if err != nil {
		return "", nil, fmt.Errorf("kek: %w", err)
	}
	return fmt.Sprintf("seals, and opens what it has sealed; %s; who can open: %s", rests, unwraps), ring, nil
}

// tryRing says how a key-encryption key and the store that is there fit, and returns the store's keyring, nil if there is none.
func (c *Enclave) tryRing(ctx context.Context, env daemon.Env, k keyring.Key, a attest.Attester) (string, store.Sealer, error) {
	path, err := c.Folder(env)
	if err != nil {
		return "", nil, err
	}
	view, err := dir.Look(path)
	if errors.Is(err, store.ErrNotExist) || errors.Is(err, fs.ErrNotExist) {
		return "no store is there yet", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	defer view.Close()
	var previous keyring.Key
	var lacks error // the previous key, which is missed only where it is needed, as at a start
	if c.Previous != "" {
		if previous, _, lacks = c.key(env, c.Previous, a); lacks != nil {
			lacks = fmt.Errorf("kek_previous: %w", lacks)
		}
	}
	switch ring, err := keyring.Try(ctx, view, k, previous); {
	case err != nil:
		return "", nil, errors.Join(err, lacks)
	case ring != nil:
		return "opens the store", ring, nil
	}
	return "the store has no keyring yet", nil, nil
}

// keys opens what the configuration names. That the previous key cannot be opened any more is no error before it is needed.
func (c Enclave) keys(env daemon.Env, a attest.Attester, log *zap.Logger) (keyring.Config, error) {
	var out keyring.Config
	key, unwraps, err := c.key(env, c.KEK, a)
	if err != nil {
		return out, err
	}
	log.Info("key-encryption key", zap.String("kek", c.KEK), zap.String("unwraps", unwraps))
	out.Key = key
	if c.Previous == "" {
		return out, nil
	}
	if out.Previous, _, err = c.key(env, c.Previous, a); err != nil {
		log.Warn("the previous key-encryption key cannot be used; it is needed only if the change has not been made yet",
			zap.String("kek", c.Previous), zap.Error(err))
	}
	return out, nil
}

// openRing opens the store's keyring. It waits for a key-encryption key that does not answer, and says so each time.
func (c Enclave) openRing(ctx context.Context, env daemon.Env, objects store.Objects, a attest.Attester) (*keyring.Ring, error) {
	log := env.Simulated(a.Simulated())
	config, err := c.keys(env, a, log)
	if err != nil {
		return nil, err
	}
	config.Objects = objects
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = longestWait
	for {
		ring, err := keyring.Open(ctx, config)
		if err == nil {
			if c.Previous != "" {
				log.Info("the previous key-encryption key is not needed any more", zap.String("kek", c.Previous))
			}
			return ring, nil
		}
		if !errors.Is(err, store.ErrUnavailable) {
			return nil, err
		}
		pause := wait.NextBackOff()
		log.Warn("waiting for the key-encryption key", zap.Error(err), zap.Duration("next_try", pause.Round(time.Millisecond)))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("ended while waiting for the key-encryption key: %w", err)
		case <-time.After(pause):
		}
	}
}

// FollowKEK rewraps the store's keyring after each SIGHUP, under the key-encryption key that the configuration names then; reread
// reads it again. The program goes on meanwhile, and goes on as it was if that fails. The function that is returned ends it, and
// waits.
func (p *Parts) FollowKEK(ctx context.Context, env daemon.Env, reread func() (Enclave, error)) func() {
	log := env.Simulated(p.Attester.Simulated())
	ctx, cancel := context.WithCancel(ctx)
	signals, stop := daemon.Hangups()
	var work sync.WaitGroup
	work.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			if err := p.rewrap(ctx, env, reread, log); err != nil {
				log.Error("the keyring was not rewrapped; the program goes on with the key-encryption key that it had", zap.Error(err))
			}
		}
	})
	return func() {
		stop()
		cancel()
		work.Wait()
	}
}

func (p *Parts) rewrap(ctx context.Context, env daemon.Env, reread func() (Enclave, error), log *zap.Logger) error {
	c, err := reread()
	if err != nil {
		return err
	}
	key, unwraps, err := c.key(env, c.KEK, p.Attester)
	if err != nil {
		return fmt.Errorf("kek: %w", err)
	}
	old := p.Ring.URI()
	if err := p.Ring.Rewrap(ctx, key); err != nil {
		return err
	}
	log.Info("keyring rewrapped; the previous key-encryption key is not needed any more", zap.String("kek", c.KEK),
		zap.String("previous", old), zap.String("unwraps", unwraps))
	return nil
}
