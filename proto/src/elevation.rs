//! What a helper orders of the sharer's broker. The sharer's own programs pass orders on and cannot read, alter or make one: who
//! has broken into the sharer's account does not get the administrator's password that way, nor a program of theirs run with it.
//!
//! ```text
//!  helper: Orders ── sealed ──▶ sharer's node ── the same ──▶ broker: Desk
//! ```
//!
//! An order is sealed to a key that the broker draws for one elevation (`sealed`). In it:
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 16 | token: drawn by the helper, the same in all its orders |
//! | 16 | 4 | number, from 1, each greater than the one before; big-endian |
//! | 20 | 1 | kind: 1 credential, 2 run, 3 stop |
//! | 21 | … | credential: length of the name (1), name, password; run: the command; stop: number of the order that runs (4) |

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    noise::{
        StaticKey,
        sealed::{self, Unreadable},
    },
    random::Random,
};

/// Of an administrator's name.
pub const MAX_NAME_BYTES: usize = 128;
/// Of a password (PAM's `PAM_MAX_RESP_SIZE` is 512 with its end).
pub const MAX_PASSWORD_BYTES: usize = 511;
/// Of a command.
pub const MAX_COMMAND_BYTES: usize = 2048;
/// Of a sealed order.
pub const MAX_SEALED_BYTES: usize = 2560;
/// Of a program's output in one message.
pub const MAX_OUTPUT_BYTES: usize = 2048;

const CONTEXT: &[u8] = b"remora elevation 1";
const TOKEN: usize = 16;
const HEAD: usize = TOKEN + 4 + 1;

/// What is ordered.
#[derive(Clone, PartialEq, Eq)]
pub enum Order {
    /// Who vouches for the rest: an administrator of the sharer's computer.
    Credential {
        /// Login name, 1 to [`MAX_NAME_BYTES`].
        name: String,
        /// Wiped with the order; at most [`MAX_PASSWORD_BYTES`], in which there is neither NUL nor line feed.
        password: Zeroizing<Vec<u8>>,
    },
    /// A shell's command line, 1 to [`MAX_COMMAND_BYTES`].
    Run(String),
    /// Kills what that order started.
    Stop(u32),
}

/// Shows no password.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential { name, .. } => write!(f, "Credential({name:?})"),
            Self::Run(command) => write!(f, "Run({command:?})"),
            Self::Stop(order) => write!(f, "Stop({order})"),
        }
    }
}

impl Order {
    fn is_valid(&self) -> bool {
        match self {
            Self::Credential { name, password } => {
                (1..=MAX_NAME_BYTES).contains(&name.len())
                    // Neither an option of a program nor two words.
                    && !name.starts_with('-')
                    && !name.chars().any(|c| c.is_control() || c.is_whitespace())
                    && password.len() <= MAX_PASSWORD_BYTES
                    && !password.iter().any(|byte| matches!(byte, 0 | b'\n'))
            }
            Self::Run(command) => {
                (1..=MAX_COMMAND_BYTES).contains(&command.len()) && !command.contains('\0')
            }
            Self::Stop(_) => true,
        }
    }

    /// Kind and body, in a buffer that is large enough from the start: nothing is left behind in one that was too small.
    fn write(&self, out: &mut Zeroizing<Vec<u8>>) -> Option<()> {
        match self {
            Self::Credential { name, password } => {
                out.extend_from_slice(&[1, u8::try_from(name.len()).ok()?]);
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(password);
            }
            Self::Run(command) => {
                out.push(2);
                out.extend_from_slice(command.as_bytes());
            }
            Self::Stop(order) => {
                out.push(3);
                out.extend_from_slice(&order.to_be_bytes());
            }
        }
        Some(())
    }

    fn read(kind: u8, body: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let order = match kind {
            1 => {
                let (&length, rest) = body.split_first()?;
                let (name, password) = rest.split_at_checked(length.into())?;
                Self::Credential {
                    name: text(name)?,
                    password: Zeroizing::new(password.to_vec()),
                }
            }
            2 => Self::Run(text(body)?),
            3 => Self::Stop(u32::from_be_bytes(body.try_into().ok()?)),
            _ => return None,
        };
        Some(order).filter(Self::is_valid)
    }
}

/// The helper's side of one elevation.
pub struct Orders {
    key: [u8; 32],
    token: Zeroizing<[u8; TOKEN]>,
    number: u32,
}

/// Shows how many there were.
impl fmt::Debug for Orders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orders")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Orders {
    /// To the broker of that key, 32 bytes; `None`: it is none.
    pub fn new(key: &[u8], random: &mut Random) -> Option<Self> {
        let mut token = Zeroizing::new([0; TOKEN]);
        random.fill(&mut token[..]);
        Some(Self {
            key: key.try_into().ok()?,
            token,
            number: 0,
        })
    }

    /// The order's number, and it sealed.
    ///
    /// # Errors
    /// [`Unreadable`]: it is beyond its limits, or the broker's key is none.
    pub fn seal(&mut self, order: &Order) -> Result<(u32, Vec<u8>), Unreadable> {
        if !order.is_valid() {
            return Err(Unreadable);
        }
        let number = self.number.checked_add(1).ok_or(Unreadable)?;
        let mut plain = Zeroizing::new(Vec::with_capacity(MAX_SEALED_BYTES));
        plain.extend_from_slice(&self.token[..]);
        plain.extend_from_slice(&number.to_be_bytes());
        order.write(&mut plain).ok_or(Unreadable)?;
        let sealed = sealed::seal(&self.key, CONTEXT, &plain)?;
        self.number = number;
        Ok((number, sealed))
    }
}

/// The broker's side: opens orders, and lets through those that nobody but one helper can have given, once each.
#[derive(Debug)]
pub struct Desk {
    key: StaticKey,
    token: Option<Zeroizing<[u8; TOKEN]>>,
    last: u32,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            key: StaticKey::generate(),
            token: None,
            last: 0,
        }
    }
}

impl Desk {
    /// What orders are to be sealed to.
    pub fn key(&self) -> [u8; 32] {
        self.key.public()
    }

    /// An order and its number. The first one says whose orders count.
    ///
    /// # Errors
    /// [`Unreadable`]: sealed to another key, altered, shown before, of somebody else, or none.
    pub fn open(&mut self, sealed: &[u8]) -> Result<(u32, Order), Unreadable> {
        if sealed.len() > MAX_SEALED_BYTES {
            return Err(Unreadable);
        }
        let plain = sealed::open(&self.key, CONTEXT, sealed)?;
        let (head, body) = plain.split_at_checked(HEAD).ok_or(Unreadable)?;
        let (token, rest) = head.split_first_chunk::<TOKEN>().ok_or(Unreadable)?;
        let (number, kind) = rest.split_first_chunk::<4>().ok_or(Unreadable)?;
        let number = u32::from_be_bytes(*number);
        let is_theirs = self
            .token
            .as_ref()
            .is_none_or(|known| bool::from(known[..].ct_eq(token)));
        if !is_theirs || number <= self.last {
            return Err(Unreadable);
        }
        let order = Order::read(kind[0], body).ok_or(Unreadable)?;
        self.last = number;
        self.token.get_or_insert_with(|| Zeroizing::new(*token));
        Ok((number, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(name: &str, password: &[u8]) -> Order {
        Order::Credential {
            name: name.to_owned(),
            password: Zeroizing::new(password.to_vec()),
        }
    }

    fn pair() -> (Orders, Desk) {
        let desk = Desk::default();
        let orders = Orders::new(&desk.key(), &mut Random::seeded(1)).expect("a key");
        (orders, desk)
    }

    #[test]
    fn an_order_arrives_as_it_was_given_and_once() {
        let (mut orders, mut desk) = pair();
        let given = [
            credential("root", b"p\xff w"),
            Order::Run("id -u".to_owned()),
            Order::Run("x".repeat(MAX_COMMAND_BYTES)),
            credential(&"n".repeat(MAX_NAME_BYTES), &[b'x'; MAX_PASSWORD_BYTES]),
            Order::Stop(2),
        ];
        for (number, order) in (1..).zip(&given) {
            let (said, sealed) = orders.seal(order).expect("an order");
            assert_eq!(said, number);
            assert!(sealed.len() <= MAX_SEALED_BYTES);
            assert_eq!(desk.open(&sealed), Ok((number, order.clone())));
            assert_eq!(desk.open(&sealed), Err(Unreadable), "shown again");
        }
    }

    #[test]
    fn whoever_passes_orders_on_can_neither_alter_nor_make_one() {
        let (mut orders, mut desk) = pair();
        let (_, first) = orders.seal(&credential("root", b"secret")).expect("sealed");
        let (_, run) = orders.seal(&Order::Run("id".to_owned())).expect("sealed");
        for at in [0, 31, 32, first.len() - 1] {
            let mut altered = first.clone();
            altered[at] ^= 1;
            assert_eq!(desk.open(&altered), Err(Unreadable), "byte {at}");
        }
        assert!(desk.open(&first).is_ok());
        let mut theirs = Orders::new(&desk.key(), &mut Random::seeded(2)).expect("a key");
        for _ in 0..9 {
            let (_, forged) = theirs.seal(&Order::Run("id".to_owned())).expect("sealed");
            assert_eq!(desk.open(&forged), Err(Unreadable));
        }
        assert!(desk.open(&run).is_ok());
        assert_eq!(Desk::default().open(&run), Err(Unreadable), "another desk");
        for length in 0..HEAD + 48 {
            assert_eq!(desk.open(&vec![0; length]), Err(Unreadable));
        }
    }

    #[test]
    fn what_is_beyond_its_limits_is_no_order() {
        let (mut orders, _) = pair();
        for order in [
            credential("", b""),
            credential("-c", b""),
            credential("a b", b""),
            credential("root", b"two\nlines"),
            credential(&"n".repeat(MAX_NAME_BYTES + 1), b""),
            credential("root", &[b'x'; MAX_PASSWORD_BYTES + 1]),
            Order::Run(String::new()),
            Order::Run("x".repeat(MAX_COMMAND_BYTES + 1)),
            Order::Run("nul\0".to_owned()),
        ] {
            assert_eq!(orders.seal(&order), Err(Unreadable), "{order:?}");
        }
        let shown = format!("{:?}", credential("root", b"hunter2"));
        assert_eq!(shown, "Credential(\"root\")");
    }
}
