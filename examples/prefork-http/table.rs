//! The table that is loaded once, and that all processes share.

use std::collections::TryReserveError;

/// The smallest prime factor of every number from 0 up. The entries of 0 and 1, which have no prime factor, are 0 and 1.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<u32>,
}

impl Table {
    /// Computes a table that takes this many MiB, at most 16384.
    pub(crate) fn load(mebibytes: usize) -> Result<Table, TryReserveError> {
        let len = mebibytes * 1024 * 1024 / size_of::<u32>();
        let mut entries = Vec::new();
        entries.try_reserve_exact(len)?;

        // The sieve of Eratosthenes: an entry is its own index until the sieve reaches a prime that divides it.
        entries.extend((0..=u32::MAX).take(len));
        for prime in 2.. {
            let mut multiple = prime * prime;
            if multiple >= len {
                break;
            }
            if entries[prime] as usize != prime {
                continue;
            }
            while multiple < len {
                if entries[multiple] as usize == multiple {
                    entries[multiple] = entries[prime];
                }
                multiple += prime;
            }
        }
        Ok(Table { entries })
    }

    pub(crate) fn get(&self, number: usize) -> Option<u32> {
        self.entries.get(number).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
