// The protocols, options and descriptors of Apple's Metal, as far as the player uses them. Names and signatures are
// Apple's; Device.swift and Commands.swift are behind them.
import Foundation

public struct MTLSize: Sendable {
    public var width, height, depth: Int

    public init(width: Int, height: Int, depth: Int) {
        self.width = width
        self.height = height
        self.depth = depth
    }
}

public struct MTLResourceOptions: OptionSet, Sendable {
    public let rawValue: UInt

    public init(rawValue: UInt) { self.rawValue = rawValue }
    public static let storageModeShared = MTLResourceOptions([])
}

public enum MTLGPUFamily: Int, Sendable {
    case apple6 = 1006
    case apple7 = 1007
}

public enum MTLPixelFormat: UInt, Sendable {
    case rgba16Float = 115
    case rgba32Float = 125

    var half: Bool { self == .rgba16Float }
    var bytes: Int { half ? 8 : 16 }
}

public struct MTLTextureUsage: OptionSet, Sendable {
    public let rawValue: UInt

    public init(rawValue: UInt) { self.rawValue = rawValue }
    public static let shaderRead = MTLTextureUsage(rawValue: 1)
}

public enum MTLStorageMode: UInt, Sendable {
    case shared = 0
}

public final class MTLTextureDescriptor {
    public var pixelFormat = MTLPixelFormat.rgba16Float
    public var width = 1
    public var height = 1
    public var usage: MTLTextureUsage = .shaderRead
    public var storageMode = MTLStorageMode.shared

    public init() {}

    public static func texture2DDescriptor(
        pixelFormat: MTLPixelFormat, width: Int, height: Int, mipmapped: Bool
    ) -> MTLTextureDescriptor {
        let descriptor = MTLTextureDescriptor()
        descriptor.pixelFormat = pixelFormat
        descriptor.width = width
        descriptor.height = height
        return descriptor
    }
}

public final class MTLCompileOptions {
    public var fastMathEnabled = true

    public init() {}
}

public protocol MTLBuffer: AnyObject {
    var length: Int { get }
    func contents() -> UnsafeMutableRawPointer
    func makeTexture(descriptor: MTLTextureDescriptor, offset: Int, bytesPerRow: Int) -> MTLTexture?
}

public protocol MTLTexture: AnyObject {
    var width: Int { get }
    var height: Int { get }
}

public protocol MTLFunction: AnyObject {
    var name: String { get }
}

public protocol MTLLibrary: AnyObject {
    func makeFunction(name: String) -> MTLFunction?
}

public protocol MTLComputePipelineState: AnyObject {
    var maxTotalThreadsPerThreadgroup: Int { get }
    var threadExecutionWidth: Int { get }
}

public protocol MTLComputeCommandEncoder: AnyObject {
    func setComputePipelineState(_ state: MTLComputePipelineState)
    func setBuffer(_ buffer: MTLBuffer?, offset: Int, index: Int)
    func setBytes(_ bytes: UnsafeRawPointer, length: Int, index: Int)
    func setTexture(_ texture: MTLTexture?, index: Int)
    func dispatchThreadgroups(_ threadgroupsPerGrid: MTLSize, threadsPerThreadgroup: MTLSize)
    func endEncoding()
}

public protocol MTLCommandBuffer: AnyObject {
    var error: Error? { get }
    var gpuStartTime: CFTimeInterval { get }
    var gpuEndTime: CFTimeInterval { get }
    func makeComputeCommandEncoder() -> MTLComputeCommandEncoder?
    func commit()
    func waitUntilCompleted()
}

public protocol MTLCommandQueue: AnyObject {
    func makeCommandBuffer() -> MTLCommandBuffer?
}

public protocol MTLDevice: AnyObject {
    var name: String { get }
    var maxBufferLength: Int { get }
    var maxThreadgroupMemoryLength: Int { get }
    var maxThreadsPerThreadgroup: MTLSize { get }
    var currentAllocatedSize: Int { get }
    func supportsFamily(_ gpuFamily: MTLGPUFamily) -> Bool
    func minimumLinearTextureAlignment(for format: MTLPixelFormat) -> Int
    func makeCommandQueue() -> MTLCommandQueue?
    func makeBuffer(length: Int, options: MTLResourceOptions) -> MTLBuffer?
    func makeBuffer(
        bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
        deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
    ) -> MTLBuffer?
    func makeLibrary(source: String, options: MTLCompileOptions?) throws -> MTLLibrary
    func makeComputePipelineState(function: MTLFunction) throws -> MTLComputePipelineState
}

/// Seconds, as Core Foundation counts them.
public typealias CFTimeInterval = Double

public func MTLCreateSystemDefaultDevice() -> MTLDevice? { CPUDevice() }
