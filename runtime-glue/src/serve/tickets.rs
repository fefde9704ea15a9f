//! The keys of TLS session tickets, the same in all workers.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tokio_rustls::rustls::server::ProducesTickets;

/// How long a key encrypts new tickets. All processes change to the next key at the same time, by the system's clock.
pub(super) const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);

type Secret = [u8; 32];

/// Makes and reads session tickets (feature `tls`).
///
/// The first key is made before the fork, and each key follows from the one before it. So all workers change to the next key
/// without communicating, and a session that one of them has begun resumes on any other. Only the current key and the
/// one before it are kept.
pub(super) struct TicketKeys {
    keys: Mutex<Keys>,
    random: SystemRandom,
}

struct Keys {
    /// The number of the current period.
    period: u64,
    current: Secret,
    last: Option<Secret>,
}

impl Keys {
    fn advance_to(&mut self, period: u64) {
        // A clock that is set back changes nothing.
        while self.period < period {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &self.current);
            let mut next = Secret::default();
            next.copy_from_slice(hmac::sign(&key, b"next key").as_ref());
            self.last = Some(std::mem::replace(&mut self.current, next));
            self.period += 1;
        }
    }
}

impl TicketKeys {
    /// Makes the first key. Returns `None` if the system has no random bytes.
    pub(super) fn new() -> Option<TicketKeys> {
        let random = SystemRandom::new();
        let mut current = Secret::default();
        random.fill(&mut current).ok()?;
        Some(TicketKeys {
            keys: Mutex::new(Keys { period: period_at(SystemTime::now()), current, last: None }),
            random,
        })
    }

    /// Changes to the key of the current period.
    pub(super) fn advance(&self) {
        self.at(SystemTime::now(), |_| ());
    }

    fn at<T>(&self, now: SystemTime, act: impl FnOnce(&Keys) -> T) -> T {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.advance_to(period_at(now));
        act(&keys)
    }

    fn encrypt_at(&self, now: SystemTime, plain: &[u8]) -> Option<Vec<u8>> {
        let (period, key) = self.at(now, |keys| (keys.period.to_be_bytes(), aead_key(&keys.current)));
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(period), &mut sealed).ok()?;
        Some([&period[..], &nonce, &sealed].concat())
    }

    fn decrypt_at(&self, now: SystemTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let (period, rest) = ticket.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        let number = u64::from_be_bytes(*period);
        let key = self.at(now, |keys| match keys.period.checked_sub(number)? {
            0 => aead_key(&keys.current),
            1 => aead_key(keys.last.as_ref()?),
            _ => None,
        })?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.open_in_place(nonce, Aad::from(*period), &mut opened).ok()?.len();
        opened.truncate(plain);
        Some(opened)
    }
}

fn period_at(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / PERIOD.as_secs()
}

fn aead_key(secret: &Secret) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, secret).ok().map(LessSafeKey::new)
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    /// Returns one period, in seconds. A ticket can be read until the end of the period after its own.
    fn lifetime(&self) -> u32 {
        PERIOD.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(SystemTime::now(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(SystemTime::now(), ticket)
    }
}

/// Omits the keys.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Copies the keys, as a fork does for a worker.
    fn copy(keys: &TicketKeys) -> TicketKeys {
        let own = keys.keys.lock().unwrap();
        let copy = Keys { period: own.period, current: own.current, last: own.last };
        TicketKeys { keys: Mutex::new(copy), random: SystemRandom::new() }
    }

    #[test]
    fn copies_change_keys_together() {
        let start = SystemTime::now();
        let one = TicketKeys::new().unwrap();
        let other = copy(&one);
        let ticket = one.encrypt_at(start, b"session").unwrap();
        assert_eq!(other.decrypt_at(start, &ticket).as_deref(), Some(&b"session"[..]));
        // `one` changes its key in three calls, and `other` in one call.
        let later = start + 3 * PERIOD;
        for periods in 1..=3 {
            one.encrypt_at(start + periods * PERIOD, b"").unwrap();
        }
        let ticket = one.encrypt_at(later, b"later").unwrap();
        assert_eq!(other.decrypt_at(later, &ticket).as_deref(), Some(&b"later"[..]));
    }

    #[test]
    fn old_and_false_tickets_are_refused() {
        let start = SystemTime::now();
        let keys = TicketKeys::new().unwrap();
        let ticket = keys.encrypt_at(start, b"session").unwrap();
        let mut changed = ticket.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(keys.decrypt_at(start, &changed), None);
        assert_eq!(keys.decrypt_at(start, &ticket[..10]), None);
        assert!(TicketKeys::new().unwrap().decrypt_at(start, &ticket).is_none());
        assert!(keys.decrypt_at(start + PERIOD, &ticket).is_some());
        assert_eq!(keys.decrypt_at(start + 2 * PERIOD, &ticket), None);
        // Now the clock is set back.
        assert_eq!(keys.decrypt_at(start, &ticket), None);
    }
}
