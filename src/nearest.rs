//! What somebody may have meant by a word that nobody knows.

/// The known word nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Slips are rarely in the first letter.
    let rank =
        |candidate: &'a str| (edits(word, candidate), word.chars().next() != candidate.chars().next(), candidate);
    let (distance, _, best) = known.into_iter().map(rank).min()?;
    (distance <= 1 + word.len() / 4).then_some(best)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (cell, y) in row.iter().skip(1).zip(b.chars()) {
            left = (left + 1).min(cell + 1).min(diagonal + usize::from(x != y));
            diagonal = *cell;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_word_that_was_meant() {
        let known = ["listen", "public_url", "username"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("user_name", known), Some("username"));
        assert_eq!(nearest("quota", known), None);
        assert_eq!(nearest("gchr", ["ecr", "ghcr"]), Some("ghcr"));
        assert_eq!((edits("kitten", "sitting"), edits("", "abc"), edits("abc", "abc")), (3, 3, 0));
    }
}
