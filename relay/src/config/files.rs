//! Files that settings name: whether they are there, are what they should be, and nobody else can read what is secret. What a relay finds
//! at its start, `config check` before it, and SIGHUP before anything is changed.

use super::{ServeArgs, args::Fault};
use crate::{
    admin::{door::Door, token::AdminToken},
    identity,
    mesh::fleet_key,
    stream::certificate::{File, Files},
};

/// What is wrong with those that `args` name; a key that is made on the first start may be missing.
pub fn unusable(args: &ServeArgs) -> Vec<Fault> {
    let key = identity::load(&args.key).err();
    let fleet_key = args.fleet_key.as_deref().map(fleet_key::load);
    let token = args.admin_token_file.as_deref().map(AdminToken::load);
    let mut faults = Vec::new();
    faults.extend(key.map(|error| fault("key", error)));
    faults.extend(failed(fleet_key).map(|error| fault("fleet_key", error)));
    faults.extend(failed(token).map(|error| fault("admin_token_file", error)));
    let admin = args.admin_tls();
    let of_admin = admin.as_ref().map(|tls| &tls.files);
    for (files, [certificate, key]) in [
        (args.certificate().as_ref(), ["tls_cert", "tls_key"]),
        (of_admin, ["admin_tls_cert", "admin_tls_key"]),
    ] {
        let wrong = files.into_iter().flat_map(Files::check);
        faults.extend(wrong.map(|(file, error)| match file {
            File::Certificate => fault(certificate, error),
            File::Key => fault(key, error),
        }));
    }
    let authorities = admin.map(|tls| Door::check_authorities(&tls));
    faults.extend(failed(authorities).map(|error| fault("admin_client_ca", error)));
    faults
}

fn failed<T, E>(loaded: Option<Result<T, E>>) -> Option<E> {
    loaded.and_then(Result::err)
}

fn fault(key: &'static str, why: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault {
        key,
        what: format!("cannot be used: {:#}", anyhow::Error::new(why)),
        needs: None,
    }
}
