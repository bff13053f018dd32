//! The page's files, as they stand in `node/ui`.

use axum::http::HeaderValue;

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asset {
    path: &'static str,
    mime: &'static str,
    /// What it holds.
    pub(super) body: &'static [u8],
}

impl Asset {
    /// Its type.
    pub(super) fn mime(self) -> HeaderValue {
        HeaderValue::from_static(self.mime)
    }
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($mime:ident $path:literal => $file:literal,)*) => {
        &[$(Asset { path: $path, mime: $mime, body: include_bytes!(concat!("../../ui/", $file)) },)*]
    };
}

const ASSETS: &[Asset] = assets! {
    HTML "/" => "index.html",
    SVG "/icon.svg" => "icon.svg",
    CSS "/page.css" => "page.css",
    CSS "/viewer.css" => "viewer.css",
    JS "/main.js" => "main.js",
    JS "/link.js" => "link.js",
    JS "/state.js" => "state.js",
    JS "/dom.js" => "dom.js",
    JS "/words.js" => "words.js",
    JS "/words/de.js" => "words/de.js",
    JS "/words/en.js" => "words/en.js",
    JS "/icons.js" => "icons.js",
    JS "/parts.js" => "parts.js",
    JS "/chat.js" => "chat.js",
    JS "/admin.js" => "admin.js",
    JS "/exchange.js" => "exchange.js",
    JS "/files.js" => "files.js",
    JS "/helper.js" => "helper.js",
    JS "/requests.js" => "requests.js",
    JS "/invited.js" => "invited.js",
    JS "/sharer.js" => "sharer.js",
    JS "/over.js" => "over.js",
    JS "/lobby.js" => "lobby.js",
    JS "/viewer.js" => "viewer.js",
    JS "/viewer/frame.js" => "viewer/frame.js",
    JS "/viewer/jpeg.js" => "viewer/jpeg.js",
    JS "/viewer/inflate.js" => "viewer/inflate.js",
    JS "/viewer/painter.js" => "viewer/painter.js",
    JS "/viewer/worker.js" => "viewer/worker.js",
    JS "/viewer/surface.js" => "viewer/surface.js",
    JS "/viewer/keys.js" => "viewer/keys.js",
    JS "/viewer/input.js" => "viewer/input.js",
    JS "/viewer/overlay.js" => "viewer/overlay.js",
};

/// The file at a path.
pub(super) fn asset(path: &str) -> Option<Asset> {
    ASSETS.iter().copied().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn files(directory: &Path) -> usize {
        let entries = fs::read_dir(directory)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path());
        entries
            .map(|path| if path.is_dir() { files(&path) } else { 1 })
            .sum()
    }

    #[test]
    fn every_file_of_the_page_is_in_the_binary() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
        assert_eq!(files(&directory), ASSETS.len());
    }

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.body).expect("text");
            let own = text.replace("http://www.w3.org/", "");
            assert!(
                !own.contains("http://") && !own.contains("https://"),
                "{}",
                asset.path
            );
        }
    }
}
