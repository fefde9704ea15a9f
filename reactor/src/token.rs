/// Identifies the source of an event.
///
/// The caller chooses a token at registration and finds it in the source's events. It may be an index into a slab, or
/// the key of an entry in a hash map. Several sources may share a token. A forked child keeps its parent's tokens.
///
/// # Examples
///
/// ```
/// use forkio_reactor::Token;
///
/// let connections = ["first", "second"];
/// let token = Token(connections.len() - 1);
/// assert_eq!(connections[token.0], "second");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub usize);

impl From<Token> for usize {
    fn from(token: Token) -> usize {
        token.0
    }
}
