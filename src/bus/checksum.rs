//! A running checksum over everything applied, by which nodes notice that they have drifted apart.
//!
//! Not cryptographic: it finds faults, not attacks. The arithmetic is part of the replicated state and never changes.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rolling(pub u64);

impl Rolling {
    /// Takes a number in.
    pub fn fold(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ (value >> 32);
    }

    /// Takes bytes in: their length and their CRC-32.
    pub fn fold_bytes(&mut self, bytes: &[u8]) {
        self.fold(((bytes.len() as u64) << 32) | u64::from(crc32fast::hash(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::Rolling;

    #[test]
    fn order_and_content_matter_and_the_arithmetic_is_frozen() {
        let of = |values: &[u64]| {
            let mut rolling = Rolling::default();
            for value in values {
                rolling.fold(*value);
            }
            rolling.0
        };
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[1, 2]), of(&[1, 2, 0]));
        let mut rolling = Rolling::default();
        rolling.fold_bytes(b"123456789");
        // CRC-32 of "123456789" is cbf43926.
        assert_eq!(rolling.0, of(&[(9 << 32) | 0xcbf4_3926]));
        assert_eq!(of(&[7]), 7_u64.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    }
}
