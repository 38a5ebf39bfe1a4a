import Foundation

/// An open bundle. It is untrusted input: everything is checked before it is given out (docs/bundle.md).
///
/// Plans, kernels' texts and weights are read when they are first asked for, and kept. Not for use by several threads
/// at once.
public final class ModelBundle {
    public let manifest: Manifest
    /// The target whose plans are used; empty where the bundle is for one kind of devices.
    public private(set) var target: String
    private let files: BundleFiles
    private var known: [String: Plan] = [:]
    private var seen = SeenTypes()
    private var texts: [String: String] = [:]
    private var shards: [String: MappedFile] = [:]

    /// Open a bundle, a folder or one file that `ondevice pack` wrote: the manifest is read, and each file looked for.
    ///
    /// - Throws: `PlayerError` of the kind `bundle`.
    public convenience init(at url: URL) throws {
        let isFile = (try? url.resourceValues(forKeys: [.isRegularFileKey]))?.isRegularFile ?? false
        guard isFile else {
            try self.init(files: try FolderFiles(url.path))
            return
        }
        let mapping = try Mapping(path: url.path, at: url.lastPathComponent)
        guard PackedFiles.isPacked(mapping) else {
            throw PlayerError(
                .bundle, "is not a bundle (its first bytes are others).", at: url.lastPathComponent,
                fix: "give a file that `ondevice pack` wrote")
        }
        try self.init(files: try PackedFiles(mapping, name: url.lastPathComponent))
    }

    init(files: BundleFiles) throws {
        self.files = files
        let text = try files.map(Manifest.file, expected: nil)
        manifest = try Manifest(try text.with { try JSON(parsing: $0, at: Manifest.file) })
        target = manifest.targets.last?.name ?? ""
        for (path, entry) in manifest.files { try files.check(path, expected: entry.bytes) }
    }

    /// What messages call it.
    public var name: String { files.name }

    /// Use the plans that a device takes. Throws `PlayerError` of the kind `device` where it can run none.
    public func choose(for device: DeviceFacts) throws {
        if manifest.targets.isEmpty { return }
        try choose(target: try TargetEntry.chosen(of: manifest.targets, for: device).name)
    }

    /// Use the plans of one target. Throws `PlayerError` of the kind `usage` where it names no such target.
    public func choose(target name: String) throws {
        let names = manifest.targets.map(\.name)
        guard names.contains(name) else {
            let have =
                names.isEmpty
                ? "it is for one kind of devices, so none has a name"
                : "it has those of \(names.joined(separator: ", "))"
            throw PlayerError(
                .usage, "\(self.name) has no plans of \(name) (\(have)).",
                fix: names.isEmpty ? "leave it out" : "name one of these")
        }
        guard name != target else { return }
        target = name
        known = [:]
        seen = SeenTypes()
    }

    /// The pipeline. Throws `PlayerError` of the kind `bundle` where the bundle draws nothing by itself.
    public func pipeline() throws -> PipelineSpec {
        guard let spec = manifest.pipeline else {
            throw PlayerError(
                .bundle, "it holds plans, and no pipeline that draws with them.", at: name,
                fix: "convert a whole checkpoint")
        }
        return spec
    }

    /// The plans that there are for the target.
    public var plans: [PlanEntry] { manifest.plans.filter { $0.targets.isEmpty || $0.targets.contains(target) } }

    func entry(_ component: String, _ sizes: Sizes) -> PlanEntry? {
        plans.first { $0.component == component && $0.sizes == sizes }
    }

    /// The plan of a component at exactly these sizes, read and checked.
    ///
    /// - Throws: `PlayerError` of the kind `bundle`, listing what there is.
    public func plan(_ component: String, _ sizes: Sizes) throws -> Plan {
        guard let entry = entry(component, sizes) else {
            let alike = plans.filter {
                $0.component == component && ($0.sizes["stage"] == nil) == (sizes["stage"] == nil)
            }
            let have = alike.map(\.sizes.shown).joined(separator: "; ")
            let what = "has no plan of \(component) for \(sizes.shown) (it has \(have.isEmpty ? "none" : have))."
            throw PlayerError(.bundle, what, at: name, fix: "convert the checkpoint again with `--size WIDTHxHEIGHT`")
        }
        if let plan = known[entry.file] { return plan }
        let check = Checker(file: entry.file)
        let data = try read(entry.file, most: JSON.mostBytes)
        let reader = PlanReader(check: check, weights: manifest.weights, kernels: Set(manifest.kernels))
        let plan = try reader.read(try data.with { try JSON(parsing: $0, at: entry.file) })
        func same<Value: Equatable>(_ field: String, _ got: Value, _ expected: Value) throws {
            guard got != expected else { return }
            let what = "\(field) is \(got) (expected \(expected) as in \(Manifest.file))."
            throw PlayerError(.bundle, what, at: entry.file, fix: damaged)
        }
        try same("component", plan.component, entry.component)
        try same("sizes", plan.sizes, entry.sizes)
        try same("dtype", plan.dtype, entry.dtype)
        try same("arena", plan.arena, entry.arena)
        guard plan.weightBytes == entry.weightBytes else {
            let what =
                "uses \(plan.weightBytes) bytes of weights "
                + "(expected \(entry.weightBytes) as in \(Manifest.file))."
            throw PlayerError(.bundle, what, at: entry.file, fix: damaged)
        }
        if let spec = manifest.pipeline {
            let ports = PortChecker(check: check, plan: plan, spec: spec, tokenizers: manifest.tokenizers)
            try ports.run(&seen)
        }
        for served in manifest.targets where entry.targets.contains(served.name) { try served.check(plan, entry.file) }
        known[entry.file] = plan
        return plan
    }

    /// The plans of a decoder in bands of `rows` rows for latents of this size, in order; none where it has none.
    func stages(height: Int, width: Int, rows: Int) throws -> [Stage] {
        let spec = try pipeline()
        var sizes = ["batch": 1, "height": height, "width": width, "rows": rows, "stage": 1]
        var found: [Stage] = []
        while entry(spec.decoder.component, sizes) != nil {
            found.append(Stage(try plan(spec.decoder.component, sizes)))
            sizes["stage"]! += 1
        }
        if !found.isEmpty { try Stage.check(found, spec) }
        return found
    }

    /// A small file, whose sha256 is checked.
    func read(_ path: String, most: Int) throws -> MappedFile {
        guard let entry = manifest.files[path] else {
            throw PlayerError(.bundle, "is not a file of \(name).", at: path, fix: damaged)
        }
        guard entry.bytes <= most else {
            let what = "is too large (got \(entry.bytes) bytes, expected at most \(most))."
            throw PlayerError(.bundle, what, at: path, fix: damaged)
        }
        let file = try files.map(path, expected: entry.bytes)
        guard file.with(SHA256.hex) == entry.sha256 else { throw changed(path) }
        return file
    }

    private func changed(_ path: String) -> PlayerError {
        PlayerError(.bundle, "was changed: its sha256 is not the one in \(Manifest.file).", at: path, fix: damaged)
    }

    func text(_ path: String) throws -> String {
        if let text = texts[path] { return text }
        guard let text = String(validUTF8: try read(path, most: Limit.textBytes).with { [UInt8]($0) }) else {
            throw PlayerError(.bundle, "is not UTF-8 text.", at: path, fix: damaged)
        }
        texts[path] = text
        return text
    }

    /// A file of weights, mapped; `verify` checks it, not every start.
    func shard(_ path: String) throws -> MappedFile {
        if let shard = shards[path] { return shard }
        let shard = try files.map(path, expected: manifest.files[path]?.bytes)
        shards[path] = shard
        return shard
    }

    /// Forget a file of weights; its pages go once nobody holds them.
    func forget(shard path: String) { shards[path] = nil }

    /// A weight's bytes, as they are stored.
    public func weight(_ key: Exact) throws -> [UInt8] {
        guard let entry = manifest.weights[key] else {
            throw PlayerError(.bundle, "has no weight \(JSON.quoted(key.text)).", at: name, fix: damaged)
        }
        return try shard(entry.file).with { [UInt8]($0[entry.offset..<entry.offset + entry.bytes]) }
    }

    /// Text of a program (docs/bundle.md, "Source of a program").
    func source(_ kernel: PlanKernel, dialect: String) throws -> String {
        guard manifest.preludes.contains(dialect) else {
            let have = manifest.preludes.isEmpty ? "none" : manifest.preludes.joined(separator: ", ")
            throw PlayerError(
                .bundle, "has no kernels for the dialect \"\(dialect)\" (it has \(have)).", at: name,
                fix: "convert again for a phone of this kind")
        }
        let defines = kernel.defines.map { "#define \($0.name) \($0.value)\n" }.joined()
        let prelude = try text("kernels/prelude/\(dialect).h")
        return defines + prelude + "\n#line 1 \"\(kernel.name).cl\"\n" + (try text("kernels/\(kernel.name).cl"))
    }

    /// A tokenizer's files by name.
    func tokenizerFiles(_ name: String) throws -> [String: MappedFile] {
        var files: [String: MappedFile] = [:]
        for file in manifest.tokenizers[name]?.files ?? [] {
            files[file] = try read("tokenizers/\(name)/\(file)", most: JSON.mostBytes)
        }
        return files
    }

    /// A sampler's table, or another small file that is an object of JSON.
    func object(_ path: String) throws -> JSON {
        let value = try read(path, most: JSON.mostBytes).with { try JSON(parsing: $0, at: path) }
        _ = try Checker(file: path).table(value, Limit.files, .top)
        return value
    }

    /// Check the sha256 of every file, and read every plan, kernel and table.
    ///
    /// - Throws: `PlayerError` of the kind `bundle`, naming the first that is damaged.
    public func verify() throws {
        for (path, entry) in manifest.files.sorted(by: { $0.key < $1.key }) {
            guard try files.map(path, expected: entry.bytes).with(SHA256.hex) == entry.sha256 else {
                throw changed(path)
            }
        }
        let chosen = target
        for name in manifest.targets.isEmpty ? [""] : manifest.targets.map(\.name) {
            if !name.isEmpty { try choose(target: name) }
            for entry in plans {
                _ = try plan(entry.component, entry.sizes)
                if let spec = manifest.pipeline, entry.component == spec.decoder.component, entry.sizes["stage"] == 1,
                    Set(entry.sizes.keys) == PortChecker.stageSizes
                {
                    let sizes = entry.sizes
                    _ = try stages(height: sizes["height"]!, width: sizes["width"]!, rows: sizes["rows"]!)
                }
            }
        }
        if !chosen.isEmpty { try choose(target: chosen) }
        for kernel in manifest.kernels { _ = try text("kernels/\(kernel).cl") }
        for prelude in manifest.preludes { _ = try text("kernels/prelude/\(prelude).h") }
        for sampler in manifest.samplers { _ = try object("samplers/\(sampler).json") }
        _ = try object(Manifest.scheduler)
    }
}
