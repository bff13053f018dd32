//! Where packets go. One UDP socket carries the control connection's packets as they are and the inner
//! connection's packets in frames; quinn sees two virtual sockets and one stable virtual address.

/// Whether what is sent is answered.
pub mod silence;
/// The real socket, and who gets what arrives on it.
pub mod socket;
/// quinn's view of it.
pub mod virtual_socket;
