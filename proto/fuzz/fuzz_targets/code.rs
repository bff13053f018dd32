//! Text that people type and paste: codes, addresses of relays, ids of nodes, requests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use remora_proto::{
    code::{Code, InvalidCode},
    id::{NodeId, RelayAddr},
    org::membership::Request,
};

fuzz_target!(|text: &str| {
    match text.parse::<Code>() {
        Ok(code) => {
            let shown = code.to_string();
            assert_eq!(shown.len(), 9);
            assert_eq!(shown.parse(), Ok(code.clone()));
            assert_eq!(shown.to_uppercase().parse(), Ok(code.clone()));
            assert!(
                !format!("{code:?}").contains(&shown[5..]),
                "the secret stays out of logs"
            );
        }
        Err(InvalidCode::Length(length)) => assert_ne!(length, 8),
        Err(InvalidCode::LetterU) => assert!(text.contains(['u', 'U', 'ｕ', 'Ｕ'])),
        Err(InvalidCode::Symbol(symbol)) => assert!(text.contains(symbol)),
    }
    if let Ok(addr) = text.parse::<RelayAddr>() {
        assert_eq!(addr.to_string().parse(), Ok(addr));
    }
    if let Ok(request) = text.parse::<Request>() {
        assert_eq!(request.to_string().parse(), Ok(request));
    }
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
});
