import Foundation

struct Fault: LocalizedError {
    let errorDescription: String?

    init(_ what: String) { errorDescription = what }
}

final class CPUDevice: MTLDevice {
    let name = "Metal on the CPU"
    let maxBufferLength = 1 << 32
    let maxThreadgroupMemoryLength = 32 << 10
    let maxThreadsPerThreadgroup = MTLSize(width: 1024, height: 1024, depth: 1024)
    fileprivate(set) var currentAllocatedSize = 0

    func supportsFamily(_ gpuFamily: MTLGPUFamily) -> Bool { true }
    func minimumLinearTextureAlignment(for format: MTLPixelFormat) -> Int { 16 }
    func makeCommandQueue() -> MTLCommandQueue? { CPUQueue() }

    func makeBuffer(length: Int, options: MTLResourceOptions) -> MTLBuffer? {
        guard length > 0, length <= maxBufferLength else { return nil }
        let memory = UnsafeMutableRawPointer.allocate(byteCount: length, alignment: 16384)
        memset(memory, 0xFF, length)  // what nothing wrote is NaN
        currentAllocatedSize += length
        return CPUBuffer(memory, length) { [weak self] in
            memory.deallocate()
            self?.currentAllocatedSize -= length
        }
    }

    func makeBuffer(
        bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
        deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
    ) -> MTLBuffer? {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        guard Int(bitPattern: pointer) % page == 0, length > 0, length % page == 0 else { return nil }
        return CPUBuffer(pointer, length) { deallocator?(pointer, length) }
    }

    func makeLibrary(source: String, options: MTLCompileOptions?) throws -> MTLLibrary {
        guard options?.fastMathEnabled == false else { throw Fault("fast math is on") }
        return try CPULibrary(source)
    }

    func makeComputePipelineState(function: MTLFunction) throws -> MTLComputePipelineState {
        guard let function = function as? CPUFunction else { throw Fault("a function of another device") }
        return CPUPipeline(function)
    }
}

final class CPUBuffer: MTLBuffer {
    let length: Int
    private let memory: UnsafeMutableRawPointer
    private let release: () -> Void

    init(_ memory: UnsafeMutableRawPointer, _ length: Int, _ release: @escaping () -> Void) {
        self.memory = memory
        self.length = length
        self.release = release
    }

    deinit { release() }

    func contents() -> UnsafeMutableRawPointer { memory }

    func makeTexture(descriptor: MTLTextureDescriptor, offset: Int, bytesPerRow: Int) -> MTLTexture? {
        let row = descriptor.width * descriptor.pixelFormat.bytes
        let fits =
            offset >= 0 && offset % 16 == 0 && bytesPerRow % 16 == 0 && bytesPerRow >= row
            && offset + bytesPerRow * descriptor.height <= length
        return fits ? CPUTexture(self, descriptor, offset, bytesPerRow) : nil
    }
}

/// As `shim::Texture` of tests/metal/metal_stdlib.
struct ShimTexture {
    var texels: UnsafeMutableRawPointer
    var width, height, pitch, half: UInt32
}

final class CPUTexture: MTLTexture {
    let width: Int
    let height: Int
    let layout: UnsafeMutablePointer<ShimTexture>
    private let buffer: CPUBuffer

    init(_ buffer: CPUBuffer, _ descriptor: MTLTextureDescriptor, _ offset: Int, _ bytesPerRow: Int) {
        self.buffer = buffer
        width = descriptor.width
        height = descriptor.height
        let half = descriptor.pixelFormat.half
        layout = .allocate(capacity: 1)
        layout.initialize(
            to: ShimTexture(
                texels: buffer.contents() + offset, width: UInt32(width), height: UInt32(height),
                pitch: UInt32(bytesPerRow / (half ? 2 : 4)), half: half ? 1 : 0))
    }

    deinit { layout.deallocate() }
}

/// One kernel, compiled by g++ for this CPU; what is compiled is kept in `ONDEVICE_CACHE`, or among temporary files.
final class CPULibrary: MTLLibrary {
    private let function: CPUFunction

    init(_ source: String) throws {
        let cache = ProcessInfo.processInfo.environment["ONDEVICE_CACHE"] ?? NSTemporaryDirectory() + "/ondevice-metal"
        let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("tests/metal/compile.py")
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", script.path, cache]
        let (input, output, complaints) = (Pipe(), Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        process.standardError = complaints
        try process.run()
        input.fileHandleForWriting.write(Data(source.utf8))
        try input.fileHandleForWriting.close()
        let lines = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false)
        let why = String(decoding: complaints.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0, lines.count >= 4 else { throw Fault(why) }
        guard dlopen(String(lines[2]), RTLD_NOW | RTLD_GLOBAL) != nil,
            let library = dlopen(String(lines[1]), RTLD_NOW), let symbol = dlsym(library, "shim_run")
        else { throw Fault(String(cString: dlerror())) }
        function = CPUFunction(
            name: String(lines[0]), run: unsafeBitCast(symbol, to: CPUFunction.Run.self),
            kinds: lines[3].split(separator: " ").map(String.init))
    }

    func makeFunction(name: String) -> MTLFunction? { name == function.name ? function : nil }
}

final class CPUFunction: MTLFunction {
    /// As `shim_run` of tests/metal/build.py.
    typealias Run = @convention(c) (
        UnsafeMutablePointer<UnsafeMutableRawPointer?>, UnsafePointer<UInt32>, UnsafePointer<UInt32>, UInt32, Int32,
        UnsafeMutablePointer<CChar>, UInt
    ) -> Int

    let name: String
    let run: Run
    let kinds: [String]  // "buffer", "value" or "texture" for each parameter

    init(name: String, run: @escaping Run, kinds: [String]) {
        self.name = name
        self.run = run
        self.kinds = kinds
    }
}

final class CPUPipeline: MTLComputePipelineState {
    let function: CPUFunction
    let maxTotalThreadsPerThreadgroup = 1024
    let threadExecutionWidth = 32

    init(_ function: CPUFunction) { self.function = function }
}
