//! Unpacks a kernel on the host, so that no guest has to under emulation.
//!
//! QEMU starts an uncompressed kernel through the PVH entry point. Debian packs its kernels with LZ4 in the
//! "legacy" frame; anything else is left as it is and the guest unpacks it.

/// First bytes of a legacy LZ4 frame.
const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// A block of a legacy frame unpacks to at most this many bytes.
const BLOCK: usize = 8 * 1024 * 1024;
/// No kernel is larger; a damaged file must not fill the memory.
const LIMIT: usize = 512 * 1024 * 1024;

/// The uncompressed kernel inside a `bzImage`, if this program can unpack it.
pub fn unpack(image: &[u8]) -> Option<Vec<u8>> {
    let payload = payload(image)?;
    let mut blocks = payload.strip_prefix(&MAGIC)?;
    let mut kernel = Vec::new();
    // The payload ends with the four-byte size that the build appends.
    while blocks.len() > 8 {
        let (size, rest) = blocks.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 {
            break;
        }
        let (block, rest) = rest.split_at_checked(size)?;
        unpack_block(block, &mut kernel)?;
        blocks = rest;
    }
    (kernel.starts_with(b"\x7fELF") && has_pvh_note(&kernel)).then_some(kernel)
}

/// The compressed part, as the boot protocol's header describes it (Linux `Documentation/arch/x86/boot.rst`).
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| image.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + number(0x248)? as usize;
    image.get(start..start.checked_add(number(0x24c)? as usize)?)
}

/// QEMU refuses an ELF kernel without the note that holds the PVH entry point.
fn has_pvh_note(kernel: &[u8]) -> bool {
    // Owner "Xen" (4 bytes with its zero), type 18.
    const NOTE: &[u8] = b"\x12\0\0\0Xen\0";
    kernel.windows(NOTE.len()).any(|window| window == NOTE)
}

/// One LZ4 block (LZ4 block format description, "Compressed block format").
fn unpack_block(block: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let mut input = block.iter().copied();
    while let Some(token) = input.next() {
        let literals = length(usize::from(token >> 4), &mut input)?;
        let before = out.len();
        out.extend(input.by_ref().take(literals));
        if out.len() != before + literals || out.len() > LIMIT {
            return None;
        }
        let Some(low) = input.next() else { return Some(()) };
        let offset = usize::from(u16::from_le_bytes([low, input.next()?]));
        let matched = length(usize::from(token & 15), &mut input)? + 4;
        let from = out.len().checked_sub(offset).filter(|from| offset > 0 && *from >= start)?;
        if out.len() + matched > start + BLOCK {
            return None;
        }
        // The match may overlap what it produces, so bytes go one after the other.
        for at in from..from + matched {
            out.push(out[at]);
        }
    }
    Some(())
}

/// Lengths of 15 go on in further bytes until one is not 255.
fn length(nibble: usize, input: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let byte = input.next()?;
            length += usize::from(byte);
            if byte != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_unpacks() {
        for (packed, plain) in [
            (&b"\x50hello"[..], &b"hello"[..]),
            // Two literals, then a match of 4 + 4 bytes at distance 2, then the closing literal.
            (b"\x24ab\x02\x00\x10c", b"ababababab\x63"),
        ] {
            let mut out = Vec::new();
            assert_eq!(unpack_block(packed, &mut out), Some(()));
            assert_eq!(out, plain);
        }
    }

    #[test]
    fn damage_is_refused_not_followed() {
        for packed in [&b"\x50he"[..], b"\x20ab\x09\x00", b"\x20ab\x00\x00", b"\xf0\xff", b"\x20ab\x02"] {
            assert_eq!(unpack_block(packed, &mut Vec::new()), None, "{packed:?}");
        }
        assert_eq!(unpack(&[0; 64]), None);
        assert_eq!(unpack(&[0xff; 4096]), None);
    }
}
