//! The memory of a process, searched for secrets.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

/// Number of copies of each byte string in the writable memory of a process, in either order of the
/// bytes: a number may be stored with its lowest byte first. Only root may read the memory. Each
/// byte string has at least two bytes. The process must live.
pub fn count(process: u32, wanted: &[&[u8]]) -> Vec<usize> {
    try_count(process, wanted).unwrap()
}

/// [`count`], or nothing if the process has ended.
pub fn count_unless_ended(process: u32, wanted: &[&[u8]]) -> Option<Vec<usize>> {
    match try_count(process, wanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => None,
        counted => Some(counted.unwrap()),
    }
}

fn try_count(process: u32, wanted: &[&[u8]]) -> io::Result<Vec<usize>> {
    let reversed: Vec<Vec<u8>> = wanted.iter().map(|bytes| bytes.iter().rev().copied().collect()).collect();
    // Grouped by the first two bytes, so the memory is searched once for any number of byte
    // strings.
    let mut by_start = vec![Vec::new(); 1 << 16];
    for (number, bytes) in wanted.iter().copied().enumerate() {
        for bytes in [bytes, &reversed[number]] {
            let known: &mut Vec<(usize, &[u8])> = &mut by_start[start(bytes)];
            if !known.contains(&(number, bytes)) {
                known.push((number, bytes));
            }
        }
    }
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let pages = File::open(format!("/proc/{process}/pagemap"))?;
    let mut found = vec![0; wanted.len()];
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start_of, end) = range.split_once('-').unwrap();
        let [start_of, end] = [start_of, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        // Own pages of a process that nobody has written are zeros: most of the stacks of threads.
        let is_own = line.split_whitespace().nth(1).is_some_and(|mode| mode.ends_with('p'))
            && line.split_whitespace().nth(4) == Some("0");
        let ranges = if is_own { present(&pages, start_of, end)? } else { vec![(start_of, end)] };
        for (start_of, end) in ranges {
            let mut bytes = vec![0; usize::try_from(end - start_of).unwrap()];
            // Some mapped memory cannot be read.
            let Ok(read) = memory.read_at(&mut bytes, start_of) else { continue };
            for place in 0..read.saturating_sub(1) {
                let here = &bytes[place..read];
                for (number, wanted) in &by_start[start(here)] {
                    found[*number] += usize::from(here.starts_with(wanted));
                }
            }
        }
    }
    Ok(found)
}

/// Parts of a range of addresses whose pages are in memory or in swap (proc_pid_pagemap(5)).
fn present(pages: &File, start_of: u64, end: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut entries = vec![0; usize::try_from((end - start_of) / PAGE * 8).unwrap()];
    // The end of the process ends the file.
    pages
        .read_exact_at(&mut entries, start_of / PAGE * 8)
        .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for (at, entry) in (start_of..).step_by(PAGE as usize).zip(entries.chunks_exact(8)) {
        if entry[7] & (IN_MEMORY | IN_SWAP) == 0 {
            continue;
        }
        match parts.last_mut() {
            Some((_, end)) if *end == at => *end += PAGE,
            _ => parts.push((at, at + PAGE)),
        }
    }
    Ok(parts)
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Size of a page, in bytes, on the processors of these tests.
const PAGE: u64 = 4096;
/// Bits of the last byte of an entry of pagemap.
const IN_MEMORY: u8 = 1 << 7;
const IN_SWAP: u8 = 1 << 6;
