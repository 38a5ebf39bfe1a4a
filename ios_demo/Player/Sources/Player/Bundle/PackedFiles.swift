import Foundation

/// A bundle as one file, which `ondevice pack` wrote (docs/bundle.md, "One file"): mapped, and read in place.
final class PackedFiles: BundleFiles {
    /// What the directory says of an entry.
    private struct Entry {
        let path: String
        let flags, method: Int
        let crc: UInt32
        let packed, size, offset: Int
        let extras: Range<Int>
    }

    let name: String
    private let mapping: Mapping
    private var places: [String: Range<Int>] = [:]

    private static let localMark: UInt32 = 0x0403_4B50, entryMark: UInt32 = 0x0201_4B50, endMark: UInt32 = 0x0605_4B50
    private static let wideEndMark: UInt32 = 0x0606_4B50, locatorMark: UInt32 = 0x0706_4B50
    private static let full = Int(UInt32.max)  // a value that ZIP64 holds
    private static let mostEntries = 16_385

    /// Whether a file is one by its first four bytes.
    static func isPacked(_ mapping: Mapping) -> Bool {
        mapping.bytes.count >= 4 && UInt32(Cursor(mapping.bytes, 0).number(4)) == localMark
    }

    /// - Throws: `PlayerError` of the kind `bundle` for an archive that is not as the page says.
    init(_ mapping: Mapping, name: String) throws {
        self.mapping = mapping
        self.name = name
        let (directory, count) = try directory()
        var at = directory.lowerBound
        var free = 0
        // Names first, so that one that is there twice is called that.
        let entries = try (0..<count).map { try entry($0, &at, directory.upperBound) }
        var seen: Set<String> = []
        for entry in entries where !seen.insert(entry.path.lowercased()).inserted {
            throw fault("is there twice", entry.path)
        }
        for entry in entries {
            let place = try place(entry, free, directory.lowerBound)
            places[entry.path] = place
            free = place.upperBound
        }
        guard at == directory.upperBound, free == directory.lowerBound else {
            let before = directory.lowerBound - free
            let after = directory.upperBound - at
            throw fault("has bytes of no entry (got \(before) before the directory, \(after) after it)", name)
        }
    }

    func map(_ path: String, expected: Int?) throws -> MappedFile {
        let place = try find(path, expected)
        return MappedFile(owner: mapping, bytes: UnsafeRawBufferPointer(rebasing: mapping.bytes[place]))
    }

    func check(_ path: String, expected: Int) throws { _ = try find(path, expected) }

    private func find(_ path: String, _ expected: Int?) throws -> Range<Int> {
        guard let place = places[path] else {
            throw PlayerError(.bundle, "is missing from \(name).", at: path, fix: damaged)
        }
        guard expected == nil || place.count == expected else {
            let what = "is cut or changed (got \(place.count) bytes, expected \(expected ?? 0))."
            throw PlayerError(.bundle, what, at: path, fix: damaged)
        }
        return place
    }

    private func fault(_ what: String, _ place: String) -> PlayerError {
        PlayerError(.bundle, what + ".", at: place, fix: "copy the file again, or write it again with `ondevice pack`")
    }

    // Reading ---------------------------------------------------------------------------------------------------------

    /// Little-endian numbers, one after the other. What is read was checked to be within the file.
    private struct Cursor {
        let bytes: UnsafeRawBufferPointer
        var at: Int

        init(_ bytes: UnsafeRawBufferPointer, _ at: Int) {
            self.bytes = bytes
            self.at = at
        }

        /// Of 2, 4 or 8 bytes; what no `Int` holds is `Int.max`.
        mutating func next(_ size: Int) -> Int {
            defer { at += size }
            return number(size)
        }

        func number(_ size: Int) -> Int {
            let value = (0..<size).reduce(UInt64(0)) { $0 | UInt64(bytes[at + $1]) << (8 * $1) }
            return Int(clamping: value)
        }
    }

    /// Where the directory is, and of how many entries.
    private func directory() throws -> (Range<Int>, Int) {
        let size = mapping.bytes.count
        var end = size - 22
        guard end >= 0, UInt32(Cursor(mapping.bytes, end).number(4)) == PackedFiles.endMark else {
            let what = "is cut, or was not packed by `ondevice pack` (expected an end record in its last 22 bytes)"
            throw fault(what, name)
        }
        var record = Cursor(mapping.bytes, end + 4)
        let disks = (record.next(2), record.next(2))
        let here = record.next(2)
        let count = record.next(2)
        var bytes = record.next(4)
        var begin = record.next(4)
        guard disks == (0, 0), here == count, record.next(2) == 0 else {
            throw fault("has an end record of several disks, of two counts, or with a comment", name)
        }
        guard (1...PackedFiles.mostEntries).contains(count) else {
            throw fault("has \(count) entries (expected 1..\(PackedFiles.mostEntries))", name)
        }
        if bytes == PackedFiles.full || begin == PackedFiles.full {
            end -= 76
            guard end >= 0 else { throw fault("has no record of ZIP64 before its end record", name) }
            var wide = Cursor(mapping.bytes, end)
            let marked = UInt32(wide.next(4)) == PackedFiles.wideEndMark && wide.next(8) == 44
            _ = wide.next(4)  // versions
            let oneDisk = wide.next(8) == 0
            guard marked, oneDisk, wide.next(8) == count, wide.next(8) == count else {
                throw fault("has a damaged record of ZIP64", name)
            }
            bytes = wide.next(8)
            begin = wide.next(8)
            let located = UInt32(wide.next(4)) == PackedFiles.locatorMark && wide.next(4) == 0 && wide.next(8) == end
            guard located, wide.next(4) == 1 else { throw fault("has a damaged locator of ZIP64", name) }
        }
        guard begin <= end, bytes == end - begin else {
            throw fault("has a directory of \(bytes) bytes at \(begin) (expected its end at \(end))", name)
        }
        return (begin..<end, count)
    }

    private func entry(_ number: Int, _ at: inout Int, _ end: Int) throws -> Entry {
        let place = "entry \(number) of \(name)"
        guard end - at >= 46 else { throw fault("the directory ends within it", place) }
        var head = Cursor(mapping.bytes, at)
        let mark = UInt32(head.next(4))
        _ = head.next(4)  // versions
        let flags = head.next(2)
        let method = head.next(2)
        _ = head.next(4)  // time
        let crc = UInt32(head.next(4))
        let packed = head.next(4)
        let size = head.next(4)
        let nameBytes = head.next(2)
        let extraBytes = head.next(2)
        let comment = head.next(2)
        let disk = head.next(2)
        _ = (head.next(2), head.next(4))  // attributes
        let offset = head.next(4)
        guard mark == PackedFiles.entryMark, comment == 0, disk == 0 else {
            throw fault("is no entry of the directory, or has a comment or another disk", place)
        }
        guard end - at - 46 >= nameBytes + extraBytes else { throw fault("the directory ends within it", place) }
        let extras = at + 46 + nameBytes
        // Not UTF-8 on purpose: every byte is a letter, and those of no path are refused.
        let path = String(String.UnicodeScalarView(mapping.bytes[at + 46..<extras].map { Unicode.Scalar($0) }))
        at = extras + extraBytes
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count <= 3, parts.allSatisfy({ isName(String($0)) }) else {
            throw fault("is called \(JSON.quoted(path)) (expected one to three names joined by /)", place)
        }
        guard (number == 0) == (path == Manifest.file) else {
            throw fault("is called \(JSON.quoted(path)) (expected bundle.json first, and once)", place)
        }
        return Entry(
            path: path, flags: flags, method: method, crc: crc, packed: packed, size: size, offset: offset,
            extras: extras..<at)
    }

    /// Where the bytes of an entry are, whose local header says what the directory says.
    ///
    /// - Parameters:
    ///   - free: the first byte that no entry before has.
    ///   - end: where the directory begins.
    private func place(_ entry: Entry, _ free: Int, _ end: Int) throws -> Range<Int> {
        let path = entry.path
        var stated = [entry.size, entry.packed, entry.offset]
        try widen(&stated, entry.extras, path)
        let (bytes, packed, offset) = (stated[0], stated[1], stated[2])
        guard entry.method == 0 else { throw fault("is compressed (got method \(entry.method), expected 0)", path) }
        guard entry.flags == 0 else {
            throw fault("is encrypted or of unknown size (got flags \(entry.flags), expected 0)", path)
        }
        guard packed == bytes, bytes <= Limit.bytes else {
            let expected = "expected the same, at most \(Limit.bytes)"
            throw fault("has \(packed) bytes packed and \(bytes) unpacked (\(expected))", path)
        }
        guard offset == free else {
            throw fault("begins at \(offset) (expected \(free), where the entry before it ends)", path)
        }
        guard end - free >= 30 else { throw fault("lies outside of the file", path) }
        var head = Cursor(mapping.bytes, free)
        let mark = UInt32(head.next(4))
        _ = head.next(2)  // version
        let flags = head.next(2)
        let method = head.next(2)
        _ = head.next(4)  // time
        let crc = UInt32(head.next(4))
        let localPacked = head.next(4)
        let localSize = head.next(4)
        let nameBytes = head.next(2)
        let extraBytes = head.next(2)
        guard end - free - 30 >= nameBytes + extraBytes else { throw fault("lies outside of the file", path) }
        let called = free + 30
        let extras = called + nameBytes
        let start = extras + extraBytes
        var values = [localSize, localPacked]
        try widen(&values, extras..<start, path)
        guard mark == PackedFiles.localMark, flags == 0, method == 0, crc == entry.crc,
            values == [bytes, bytes], mapping.bytes[called..<extras].elementsEqual(path.utf8)
        else { throw fault("has another local header than the directory says", path) }
        guard end - start >= bytes else { throw fault("lies outside of the file", path) }
        let alignment = path.hasPrefix("weights/") ? 16384 : 64
        guard start % alignment == 0 else {
            throw fault("has its bytes at \(start) (expected a multiple of \(alignment))", path)
        }
        return start..<start + bytes
    }

    /// Values that are full, from the extra field of ZIP64, in their order.
    private func widen(_ values: inout [Int], _ extras: Range<Int>, _ path: String) throws {
        var found: Range<Int>?
        var at = extras.lowerBound
        while at < extras.upperBound {
            guard extras.upperBound - at >= 4 else { throw fault("has a damaged extra field", path) }
            var head = Cursor(mapping.bytes, at)
            let id = head.next(2)
            let size = head.next(2)
            at += 4
            guard extras.upperBound - at >= size else { throw fault("has a damaged extra field", path) }
            if id == 1, found == nil { found = at..<at + size }
            at += size
        }
        let wide = values.indices.filter { values[$0] == PackedFiles.full }
        guard !wide.isEmpty else { return }
        guard let found, found.count == 8 * wide.count else {
            throw fault("has no \(wide.count) values of ZIP64", path)
        }
        var held = Cursor(mapping.bytes, found.lowerBound)
        for i in wide { values[i] = held.next(8) }
    }
}
