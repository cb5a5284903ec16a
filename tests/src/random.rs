//! Random moments that come again.

/// A generator of one's own, so that a seed means the same for ever (xorshift64*, Vigna 2016).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From `FLEET_SEED`, or the one for everybody; says which.
    pub fn seeded() -> Self {
        let seed = std::env::var("FLEET_SEED").ok().and_then(|seed| seed.parse().ok());
        // Zero would give zeros for ever.
        let seed = seed.filter(|seed| *seed != 0).unwrap_or(20_261_124);
        eprintln!("FLEET_SEED={seed}");
        Self(seed)
    }

    /// A number below `most`.
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % most
    }
}
