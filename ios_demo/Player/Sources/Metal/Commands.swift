import Foundation

final class CPUQueue: MTLCommandQueue {
    func makeCommandBuffer() -> MTLCommandBuffer? { CPUCommandBuffer() }
}

/// Launches are recorded, and run one after the other when the buffer is committed.
final class CPUCommandBuffer: MTLCommandBuffer {
    private(set) var error: Error?
    private(set) var gpuStartTime: CFTimeInterval = 0
    private(set) var gpuEndTime: CFTimeInterval = 0
    private var encoder: CPUEncoder?
    private static let oneAtATime = NSLock()  // the runtime of tests/metal has one stack of work-items

    func makeComputeCommandEncoder() -> MTLComputeCommandEncoder? {
        encoder = CPUEncoder()
        return encoder
    }

    func commit() {
        gpuStartTime = Date.timeIntervalSinceReferenceDate
        CPUCommandBuffer.oneAtATime.withLock {
            do {
                guard let encoder, encoder.ended else { throw Fault("the encoder was not ended") }
                for launch in encoder.launches { try launch() }
            } catch {
                self.error = error
            }
        }
        encoder = nil
        gpuEndTime = Date.timeIntervalSinceReferenceDate
    }

    func waitUntilCompleted() {}
}

final class CPUEncoder: MTLComputeCommandEncoder {
    fileprivate var launches: [() throws -> Void] = []
    fileprivate private(set) var ended = false
    private var pipeline: CPUPipeline?
    private var buffers: [Int: Argument] = [:]
    private var textures: [Int: CPUTexture] = [:]

    private enum Argument {
        case buffer(MTLBuffer, offset: Int)
        case bytes([UInt8])
    }

    func setComputePipelineState(_ state: MTLComputePipelineState) { pipeline = state as? CPUPipeline }

    func setBuffer(_ buffer: MTLBuffer?, offset: Int, index: Int) {
        precondition(index < 31, "more than 31 buffers")
        guard let buffer else {
            buffers[index] = nil
            return
        }
        precondition(offset >= 0 && offset < buffer.length && offset % 4 == 0, "an offset outside of its buffer")
        buffers[index] = .buffer(buffer, offset: offset)
    }

    func setBytes(_ bytes: UnsafeRawPointer, length: Int, index: Int) {
        precondition(length <= 4096, "more than 4 KB of bytes")
        precondition(index < 31, "more than 31 buffers")
        buffers[index] = .bytes([UInt8](UnsafeRawBufferPointer(start: bytes, count: length)))
    }

    func setTexture(_ texture: MTLTexture?, index: Int) { textures[index] = texture as? CPUTexture }

    func dispatchThreadgroups(_ threadgroupsPerGrid: MTLSize, threadsPerThreadgroup: MTLSize) {
        let (pipeline, buffers, textures) = (pipeline, buffers, textures)
        launches.append {
            guard let function = pipeline?.function else { throw Fault("no pipeline state") }
            try CPUEncoder.launch(function, buffers, textures, threadgroupsPerGrid, threadsPerThreadgroup)
        }
    }

    func endEncoding() { ended = true }

    private static func launch(
        _ function: CPUFunction, _ buffers: [Int: Argument], _ textures: [Int: CPUTexture], _ groups: MTLSize,
        _ sizes: MTLSize
    ) throws {
        var places: [UnsafeMutableRawPointer?] = []
        var held: [UnsafeMutableRawPointer] = []
        defer { held.forEach { $0.deallocate() } }
        var (buffer, texture) = (0, 0)
        for kind in function.kinds {
            if kind == "texture" {
                guard let given = textures[texture] else { throw Fault("\(function.name) has no texture \(texture)") }
                places.append(UnsafeMutableRawPointer(given.layout))
                texture += 1
                continue
            }
            switch buffers[buffer] {
            case .buffer(let given, let offset)?: places.append(given.contents() + offset)
            case .bytes(let bytes)?:
                let copy = UnsafeMutableRawPointer.allocate(byteCount: max(bytes.count, 16), alignment: 16)
                bytes.withUnsafeBytes { copy.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
                held.append(copy)
                places.append(copy)
            case nil: throw Fault("\(function.name) has no buffer \(buffer)")
            }
            buffer += 1
        }
        var why = [CChar](repeating: 0, count: 1000)
        let local = function.run(
            &places, [groups.width, groups.height, groups.depth].map(UInt32.init),
            [sizes.width, sizes.height, sizes.depth].map(UInt32.init), 32, 0, &why,
            UInt(why.count))
        guard local >= 0 else { throw Fault("\(function.name): \(String(cString: why))") }
        withExtendedLifetime((buffers, textures)) {}
    }
}
