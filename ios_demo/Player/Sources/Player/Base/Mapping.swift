import Foundation

/// A file's bytes, mapped: pages are read when they are touched, and may leave memory again. Nothing is copied.
public final class Mapping {
    /// As many bytes as the file has.
    public let bytes: UnsafeRawBufferPointer
    private let base: UnsafeMutableRawPointer?

    /// - Throws: `PlayerError` of the kind `bundle` where the file cannot be mapped.
    init(path: String, at place: String) throws {
        func refuse() -> PlayerError {
            PlayerError(
                .bundle, "cannot be read (\(String(cString: strerror(errno)))).", at: place,
                fix: "check the file's permissions")
        }
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw refuse() }
        defer { close(descriptor) }
        var facts = stat()
        guard fstat(descriptor, &facts) == 0 else { throw refuse() }
        let size = Int(facts.st_size)
        guard size > 0 else {
            base = nil
            bytes = UnsafeRawBufferPointer(start: nil, count: 0)
            return
        }
        let mapped = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0)
        guard let mapped, mapped != MAP_FAILED else { throw refuse() }
        base = mapped
        bytes = UnsafeRawBufferPointer(start: mapped, count: size)
    }

    deinit {
        if let base { munmap(base, bytes.count) }
    }
}

/// Bytes of a file of a bundle, inside what is mapped. They are there for as long as this is held.
public struct MappedFile {
    private let owner: AnyObject
    /// Only while this is held: `with` sees to it.
    let held: UnsafeRawBufferPointer

    init(owner: AnyObject, bytes: UnsafeRawBufferPointer) {
        self.owner = owner
        held = bytes
    }

    func with<Result>(_ use: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try withExtendedLifetime(owner) { try use(held) }
    }
}
