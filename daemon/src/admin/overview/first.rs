//! The first rows of a list that is too long to be shown.

/// The rows of lowest rank, in their order. Memory does not grow with the number of rows.
#[derive(Debug)]
pub(crate) struct First<T> {
    rows: Vec<(Rank, T)>,
    most: usize,
    total: usize,
}

/// Place of a row: a class, and a number within it. Rows of one rank stay in the order in which
/// they come.
pub(in crate::admin) type Rank = (u8, u64);

impl<T> First<T> {
    /// A list that keeps at most this many rows.
    pub(super) fn new(most: usize) -> Self {
        Self { rows: Vec::new(), most, total: 0 }
    }

    /// Counts a row. Makes the row only if it is among the first.
    pub(in crate::admin) fn push(&mut self, rank: Rank, make: impl FnOnce() -> T) {
        self.total += 1;
        let place = self.rows.partition_point(|(other, _)| *other <= rank);
        if place < self.most {
            self.rows.truncate(self.most - 1);
            self.rows.insert(place, (rank, make()));
        }
    }

    /// The first rows.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &T> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// Number of all rows.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rows_are_kept_and_all_are_counted() {
        let mut first = First::new(3);
        let mut made = 0;
        for number in [5, 9, 1, 7, 1, 8] {
            first.push((0, number), || {
                made += 1;
                (number, made)
            });
        }
        assert_eq!(first.rows().copied().collect::<Vec<_>>(), [(1, 3), (1, 5), (5, 1)]);
        assert_eq!((first.total(), made), (6, 5), "the last row was not made");
        first.push((1, 0), || unreachable!("the class comes first"));
    }
}
