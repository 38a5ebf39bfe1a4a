import Foundation
import Metal

/// Runs plans of one bundle on one device: weights stay where the files are mapped, intermediate tensors share one
/// arena. Not for use by several threads at once.
public final class Session {
    public let device: MTLDevice
    public let facts: DeviceFacts
    let bundle: ModelBundle
    private let queue: MTLCommandQueue
    private var programs: [String: MTLComputePipelineState] = [:]
    private var shards: [String: Shard] = [:]
    private var arena: MTLBuffer?
    private var changed: ChangedWeights?
    /// Weights that have memory of their own, with the values that `changed` gives them.
    private var ownWeights: [Exact: MTLBuffer] = [:]
    private var prepared: (plan: String, launches: [Launch])?
    /// Asked between command buffers: a run ends early where it says so.
    var isCancelled: () -> Bool = { false }
    /// Told before each weight that adapters change: how many of a plan's are done, and of how many.
    var changing: (Int, Int) -> Void = { _, _ in }
    /// Where it is not nil, each launch is a command buffer of its own, and what it took is put here.
    var profile: [BenchmarkResult.Op]?
    /// Seconds on the GPU of the plans that ran, by component.
    public private(set) var secondsByComponent: [String: Double] = [:]

    private struct Shard {
        let file: MappedFile  // whose pages the buffer is made of
        let buffer: MTLBuffer
    }

    /// A dispatch with all that it is launched with.
    private struct Launch {
        enum Argument {
            case buffer(MTLBuffer, offset: Int)
            case texture(MTLTexture)
        }

        let program: MTLComputePipelineState
        let arguments: [Argument]
        let scalars: [UInt32]
        let groups: MTLSize
        let group: MTLSize
        let kernel: String
        let dispatch: Dispatch  // of which only `op`, `flops`, `reads` and `writes` are looked at
    }

    /// - Parameter device: nil for the system's own.
    /// - Throws: `PlayerError` of the kind `noDevice`, or `device` where it runs none of the bundle's plans.
    public init(_ bundle: ModelBundle, device: MTLDevice? = nil) throws {
        guard let device = device ?? MTLCreateSystemDefaultDevice(), let queue = device.makeCommandQueue() else {
            throw PlayerError(
                .noDevice, "there is no device for Metal here.",
                fix: "run on an iPhone, an iPad or a Mac; the simulator has none of theirs")
        }
        self.device = device
        self.queue = queue
        self.bundle = bundle
        facts = DeviceFacts(of: device)
        try bundle.choose(for: facts)
    }

    /// Run a component's plan.
    ///
    /// - Parameter inputs: by port; all of the plan's, each of its dtype and as many bytes.
    /// - Returns: the outputs by port.
    /// - Throws: `PlayerError`: `bundle` for a plan that is damaged or not there, `device`, `kernelBuild`, `cancelled`.
    public func run(_ component: String, _ sizes: Sizes, _ inputs: [Exact: Tensor]) throws -> [Exact: Tensor] {
        let plan = try bundle.plan(component, sizes)
        let launches = try prepare(plan)
        guard let arena else { return [:] }
        for index in plan.inputs {
            let operand = plan.operands[index]
            guard case .arena(let offset) = operand.home, let given = inputs[operand.name],
                given.dtype == operand.dtype, given.bytes.count == operand.bytes
            else {
                throw PlayerError(
                    .usage, "\(component) is not given \(operand.name) as \(operand.dtype)\(operand.shape).")
            }
            given.bytes.withUnsafeBytes {
                (arena.contents() + offset).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
            }
        }
        try replay(launches, component)
        var outputs: [Exact: Tensor] = [:]
        for operand in plan.outputs.map({ plan.operands[$0] }) {
            if case .arena(let offset) = operand.home {
                let bytes = [UInt8](UnsafeRawBufferPointer(start: arena.contents() + offset, count: operand.bytes))
                outputs[operand.name] = Tensor(operand.dtype, operand.shape, bytes)
            }
        }
        return outputs
    }

    /// Build every program of a plan, so that its first run does not wait for it.
    public func build(_ component: String, _ sizes: Sizes) throws {
        let plan = try bundle.plan(component, sizes)
        for kernel in plan.kernels { _ = try program(kernel) }
    }

    /// Put these adapters of the bundle into its weights, in this order, and no others. New values are made when a plan
    /// that reads them is run.
    func adapt(_ adapters: [(entry: AdapterEntry, scale: Double)]) {
        guard !(changed?.isOf(adapters) ?? adapters.isEmpty) else { return }
        prepared = nil
        ownWeights = [:]
        changed = adapters.isEmpty ? nil : ChangedWeights(bundle, adapters)
    }

    /// Give back the arena and the weights that are in memory.
    public func release() {
        prepared = nil
        arena = nil
        ownWeights = [:]
        for file in shards.keys { bundle.forget(shard: file) }
        shards = [:]
    }

    // Replay ----------------------------------------------------------------------------------------------------------

    /// As much work as one command buffer takes: phones end one that runs for many seconds, and between two of them a
    /// run can be cancelled.
    private static let mostFlops = 100_000_000_000
    private static let mostLaunches = 64

    private func replay(_ launches: [Launch], _ component: String) throws {
        let mostLaunches = profile == nil ? Session.mostLaunches : 1
        var running: [MTLCommandBuffer] = []
        defer { running.forEach { $0.waitUntilCompleted() } }  // of a run that ends early: its arena is in use until then
        var next = 0
        while next < launches.count {
            if isCancelled() { throw PlayerError(.cancelled, "cancelled.") }
            guard let commands = queue.makeCommandBuffer(), let encoder = commands.makeComputeCommandEncoder() else {
                throw PlayerError(
                    .device, "it gives no command buffer.", at: facts.name,
                    fix: "close other apps and try again")
            }
            let first = next
            var flops = 0
            while next < launches.count, next - first < mostLaunches, flops < Session.mostFlops {
                encode(launches[next], encoder)
                flops += launches[next].dispatch.flops
                next += 1
            }
            encoder.endEncoding()
            commands.commit()
            if profile != nil {
                try finish(commands, component)
                note(launches[first], commands)
                continue
            }
            running.append(commands)
            // One runs while the next is encoded.
            if running.count > 1 { try finish(running.removeFirst(), component) }
        }
        while !running.isEmpty { try finish(running.removeFirst(), component) }
    }

    private func finish(_ commands: MTLCommandBuffer, _ component: String) throws {
        commands.waitUntilCompleted()
        if let error = commands.error {
            throw PlayerError(
                .device, "\(component) failed (\(error.localizedDescription)).", at: facts.name,
                fix: "close other apps, draw a smaller picture, or keep the app on the screen")
        }
        secondsByComponent[component, default: 0] += commands.gpuEndTime - commands.gpuStartTime
    }

    private func note(_ launch: Launch, _ commands: MTLCommandBuffer) {
        let call = launch.dispatch
        profile?.append(
            BenchmarkResult.Op(
                op: call.op, kernel: launch.kernel, seconds: max(commands.gpuEndTime - commands.gpuStartTime, 0),
                runs: 1,
                flops: call.flops, bytes: call.reads + call.writes))
    }

    /// Buffers and scalars are numbered together, in this order; textures by themselves (docs/bundle.md).
    private func encode(_ launch: Launch, _ encoder: MTLComputeCommandEncoder) {
        encoder.setComputePipelineState(launch.program)
        var (buffer, texture) = (0, 0)
        for argument in launch.arguments {
            switch argument {
            case .buffer(let given, let offset):
                encoder.setBuffer(given, offset: offset, index: buffer)
                buffer += 1
            case .texture(let given):
                encoder.setTexture(given, index: texture)
                texture += 1
            }
        }
        for scalar in launch.scalars {
            withUnsafeBytes(of: scalar) { encoder.setBytes($0.baseAddress!, length: $0.count, index: buffer) }
            buffer += 1
        }
        encoder.dispatchThreadgroups(launch.groups, threadsPerThreadgroup: launch.group)
    }

    // What a plan needs -----------------------------------------------------------------------------------------------

    /// The launches of a plan, bound to arena and weights.
    private func prepare(_ plan: Plan) throws -> [Launch] {
        let name = "\(plan.component) \(plan.sizes.shown)"
        if let prepared, prepared.plan == name { return prepared.launches }
        if let lacks = plan.needs.first(where: { !facts.needs.contains($0) && !Need.spelled.contains($0) }) {
            throw PlayerError(
                .device, "the plan needs \(lacks), which \(facts.name) has not.", at: name,
                fix: "convert for a --target of this device, such as ios")
        }
        prepared = nil
        try fit(arena: max(plan.arena, Limit.align), name)
        try change(plan, name)
        let arguments = try plan.operands.map { operand in
            try argument(operand, plan, name)
        }
        let programs = try plan.kernels.map(program)
        let launches = try plan.dispatches.map { call -> Launch in
            let program = programs[call.kernel]
            let kernel = plan.kernels[call.kernel]
            let items = call.group.reduce(1, *)
            guard items <= program.maxTotalThreadsPerThreadgroup else {
                let most = program.maxTotalThreadsPerThreadgroup
                throw PlayerError(
                    .device, "\(kernel.name) takes groups of \(items) (the device has \(most)).", at: name,
                    fix: "convert for a --target of this device, such as ios")
            }
            let given = call.operands.map { arguments[$0] }
            let buffers = given.filter { if case .buffer = $0 { return true } else { return false } }.count
            guard buffers + call.scalars.count <= 31 else {
                throw PlayerError(
                    .device, "\(kernel.name) takes more arguments than Metal has (31).", at: name,
                    fix: "convert again with a newer ondevice")
            }
            let groups = zip(call.grid, call.group).map { $0 / $1 }
            return Launch(
                program: program, arguments: given, scalars: call.scalars,
                groups: MTLSize(width: groups[0], height: groups[1], depth: groups[2]),
                group: MTLSize(width: call.group[0], height: call.group[1], depth: call.group[2]),
                kernel: kernel.name, dispatch: call)
        }
        prepared = (name, launches)
        return launches
    }

    /// One buffer for all intermediate tensors; a much larger one is not kept for a small plan.
    private func fit(arena bytes: Int, _ place: String) throws {
        if let arena, arena.length >= bytes, arena.length / 4 <= max(bytes, 64 << 20) { return }
        arena = nil
        guard bytes <= device.maxBufferLength,
            let buffer = device.makeBuffer(length: bytes, options: .storageModeShared)
        else { throw noMemory(bytes, place) }
        arena = buffer
    }

    private func noMemory(_ bytes: Int, _ place: String) -> PlayerError {
        PlayerError(
            .device, "there is no memory for it (\(bytes >> 20) MB in one piece).", at: place,
            fix: "close other apps, or draw a smaller picture")
    }

    private func argument(_ operand: Operand, _ plan: Plan, _ place: String) throws -> Launch.Argument {
        switch operand.home {
        case .arena(let offset): return .buffer(arena!, offset: offset)
        case .weight(let key):
            if let own = ownWeights[key] { return .buffer(own, offset: 0) }
            let entry = bundle.manifest.weights[key]!
            return .buffer(try shard(entry.file), offset: entry.offset)
        case .view(let viewed, let width, let height):
            guard case .buffer(let buffer, let offset) = try argument(plan.operands[viewed], plan, place) else {
                preconditionFailure("an image of an image")
            }
            let format: MTLPixelFormat = operand.dtype == .f16 ? .rgba16Float : .rgba32Float
            let row = width * 4 * operand.dtype.size
            let descriptor = MTLTextureDescriptor.texture2DDescriptor(
                pixelFormat: format, width: width, height: height, mipmapped: false)
            descriptor.usage = .shaderRead
            descriptor.storageMode = .shared
            let alignment = device.minimumLinearTextureAlignment(for: format)
            guard row % alignment == 0, offset % alignment == 0, max(width, height) <= DeviceFacts.imageSide,
                let texture = buffer.makeTexture(descriptor: descriptor, offset: offset, bytesPerRow: row)
            else {
                throw PlayerError(
                    .device, "it makes no image of \(width)x\(height) of \(operand.name).", at: place,
                    fix: "convert for a --target of this device, such as ios")
            }
            return .texture(texture)
        }
    }

    /// New values for what adapters change of a plan's weights.
    private func change(_ plan: Plan, _ place: String) throws {
        guard let changed else { return }
        var seen: Set<Exact> = []
        let keys = plan.operands.compactMap { operand -> Exact? in
            guard case .weight(let key) = operand.home, changed.has(key), ownWeights[key] == nil else { return nil }
            return seen.insert(key).inserted ? key : nil
        }
        for (done, key) in keys.enumerated() {
            if isCancelled() { throw PlayerError(.cancelled, "cancelled.") }
            changing(done, keys.count)
            let bytes = try changed.values(key)
            guard bytes.count <= device.maxBufferLength,
                let buffer = device.makeBuffer(length: bytes.count, options: .storageModeShared)
            else { throw noMemory(bytes.count, place) }
            bytes.withUnsafeBytes { buffer.contents().copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            ownWeights[key] = buffer
        }
    }

    /// A file of weights as a buffer of its mapped pages. Where the device takes no pages of a file, they are copied.
    private func shard(_ path: String) throws -> MTLBuffer {
        if let shard = shards[path] { return shard.buffer }
        let file = try bundle.shard(path)
        let buffer = file.with { bytes -> MTLBuffer? in
            guard let start = bytes.baseAddress else { return nil }
            let page = Int(sysconf(Int32(_SC_PAGESIZE)))
            let length = (bytes.count + page - 1) / page * page  // a mapping's last page is whole
            if Int(bitPattern: start) % page == 0,
                let buffer = device.makeBuffer(
                    bytesNoCopy: UnsafeMutableRawPointer(mutating: start), length: length,
                    options: .storageModeShared, deallocator: nil)
            {
                return buffer
            }
            let copy = device.makeBuffer(length: bytes.count, options: .storageModeShared)
            copy?.contents().copyMemory(from: start, byteCount: bytes.count)
            return copy
        }
        guard let buffer else { throw noMemory(file.held.count, path) }
        shards[path] = Shard(file: file, buffer: buffer)
        return buffer
    }

    private func program(_ kernel: PlanKernel) throws -> MTLComputePipelineState {
        let source = try bundle.source(kernel, dialect: "metal")
        if let program = programs[source] { return program }
        let options = MTLCompileOptions()
        options.fastMathEnabled = false  // masks hold infinities
        do {
            let library = try device.makeLibrary(source: source, options: options)
            guard let function = library.makeFunction(name: kernel.name) else {
                throw PlayerError(.kernelBuild, "it has no kernel of this name.", at: "\(kernel.name).cl", fix: damaged)
            }
            let program = try device.makeComputePipelineState(function: function)
            programs[source] = program
            return program
        } catch let error as PlayerError {
            throw error
        } catch {
            let defines = kernel.defines.map { "\($0.name)=\($0.value)" }.joined(separator: " ")
            throw PlayerError(
                .kernelBuild, "\(facts.name) refused it, with \(defines):\n\(error.localizedDescription)",
                at: "\(kernel.name).cl", fix: "convert again with a newer ondevice")
        }
    }
}

extension DeviceFacts {
    static let imageSide = 16_384

    /// What Metal says of a device.
    init(of device: MTLDevice) {
        var needs = ["half", "image2d"]
        if device.supportsFamily(.apple6) { needs.append("subgroups") }
        if device.supportsFamily(.apple7) { needs.append("matrix_unit") }
        self.init(
            name: device.name, needs: needs,
            limits: [
                "work_group": device.maxThreadsPerThreadgroup.width,
                "local_memory": device.maxThreadgroupMemoryLength,
                "allocation": device.maxBufferLength,
                "image_width": DeviceFacts.imageSide,
                "image_height": DeviceFacts.imageSide,
            ])
    }
}
