//! A session code for a camera: dark squares as one SVG path, a unit each.

use qrcode::{Color, EcLevel, QrCode};
use serde_json::{Value, json};

/// `{"size", "path"}`; the page draws it, with a quiet zone around.
pub(super) fn qr(code: &str) -> Option<Value> {
    // Capitals are in QR's alphanumeric set, which makes the picture coarse and easy to catch.
    let symbol = QrCode::with_error_correction_level(code.to_ascii_uppercase(), EcLevel::Q).ok()?;
    let size = symbol.width();
    let mut path = String::new();
    for (y, row) in symbol.to_colors().chunks(size).enumerate() {
        for (x, _) in row
            .iter()
            .enumerate()
            .filter(|(_, colour)| **colour == Color::Dark)
        {
            path.push_str(&format!("M{x} {y}h1v1h-1z"));
        }
    }
    Some(json!({"size": size, "path": path}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_makes_the_smallest_symbol() {
        let value = qr("4060-r0gx").expect("fits");
        assert_eq!(value["size"], 21);
        let path = value["path"].as_str().expect("text");
        // The finder pattern's corner.
        assert!(path.starts_with("M0 0h1v1h-1z"), "{path}");
    }
}
