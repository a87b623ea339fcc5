//! Amounts of CPU and memory as Kubernetes writes them, so that two of them can be compared.

/// An amount in thousandths, as a whole number where it is one; nothing where the text is no such amount.
pub fn thousandths(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor: i128 = match unit {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        "Pi" => 1_000 << 50,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    number.checked_mul(factor).map(|product| product / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_equal_however_they_are_written() {
        for (one, other) in [("0.5", "500m"), ("1Gi", "1024Mi"), ("1Pi", "1024Ti"), ("1.5G", "1500M"), ("1P", "1000T")]
        {
            assert_eq!(thousandths(one), thousandths(other), "{one} {other}");
        }
        assert!(thousandths("1Gi") > thousandths("512Mi") && thousandths("lots").is_none());
    }
}
