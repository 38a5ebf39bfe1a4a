import Foundation

/// Where a bundle's files are.
protocol BundleFiles {
    /// What messages call the bundle.
    var name: String { get }

    /// A file's bytes, mapped. `expected`: its size, where the manifest says it.
    ///
    /// - Throws: `PlayerError` of the kind `bundle` where it is missing, outside of the bundle, or of another size.
    func map(_ path: String, expected: Int?) throws -> MappedFile

    /// The same checks, without a look at the bytes.
    func check(_ path: String, expected: Int) throws
}

/// A folder, as `ondevice convert` writes it.
struct FolderFiles: BundleFiles {
    let name: String
    private let root: String

    /// - Throws: `PlayerError` of the kind `bundle` where it is no folder with a manifest.
    init(_ path: String) throws {
        let found = FolderFiles.real(path)
        guard let root = found, FolderFiles.real(root + "/" + Manifest.file) != nil else {
            let why = found == nil ? "there is no such file or folder" : "no \(Manifest.file) in it"
            throw PlayerError(
                .bundle, "is not a bundle (\(why)).", at: path, fix: "give the folder that `ondevice convert` wrote")
        }
        self.root = root
        name = String(root.split(separator: "/").last ?? "/")
    }

    func map(_ path: String, expected: Int?) throws -> MappedFile {
        let mapping = try Mapping(path: try locate(path, expected), at: path)
        guard expected == nil || mapping.bytes.count == expected else {  // it changed since
            throw cut(path, mapping.bytes.count, expected ?? 0)
        }
        return MappedFile(owner: mapping, bytes: mapping.bytes)
    }

    func check(_ path: String, expected: Int) throws { _ = try locate(path, expected) }

    /// The path of a regular file inside the folder; links are followed, and must stay inside.
    private func locate(_ path: String, _ expected: Int?) throws -> String {
        var facts = stat()
        guard let found = FolderFiles.real(root + "/" + path), stat(found, &facts) == 0 else {
            throw PlayerError(.bundle, "is missing from \(name).", at: path, fix: damaged)
        }
        guard found.hasPrefix(root + "/"), facts.st_mode & S_IFMT == S_IFREG else {
            throw PlayerError(.bundle, "is a link out of \(name) or not a regular file.", at: path, fix: damaged)
        }
        if let expected, Int(facts.st_size) != expected { throw cut(path, Int(facts.st_size), expected) }
        return found
    }

    private func cut(_ path: String, _ bytes: Int, _ expected: Int) -> PlayerError {
        PlayerError(.bundle, "is cut or changed (got \(bytes) bytes, expected \(expected)).", at: path, fix: damaged)
    }

    private static func real(_ path: String) -> String? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        return String(cString: found)
    }
}
