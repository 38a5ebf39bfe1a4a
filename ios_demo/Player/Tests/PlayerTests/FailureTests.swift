#if os(Linux)  // Apple's protocols have more members than the stand-in's
    import Foundation
    import Metal
    import XCTest

    @testable import Player

    /// What becomes of a run where the device fails.
    final class FailureTests: XCTestCase {
        func testWhatRunsBesideACommandBufferThatFailedIsWaitedFor() throws {
            guard let folder = ProcessInfo.processInfo.environment["ONDEVICE_DRAWN"] else {
                throw XCTSkip("ONDEVICE_DRAWN names no folder of drawn.py")
            }
            let device = WatchedDevice(MTLCreateSystemDefaultDevice()!)
            let bundle = URL(fileURLWithPath: folder).appendingPathComponent("demo.ondevice")
            let pipeline = try Pipeline(bundle: bundle, device: device)
            let usual = pipeline.usual
            var request = Request(prompt: "a red circle", seed: 1, sampler: usual.sampler)
            request.steps = usual.steps
            let message = refusal { _ = try pipeline.draw(request) }
            XCTAssertEqual(message?.contains("failed (the GPU was taken away)."), true, message ?? "drawn")
            XCTAssertGreaterThan(device.most, 1)
            XCTAssertEqual(device.running, 0)
        }
    }

    /// A device whose command buffers fail once two of them run at a time.
    private final class WatchedDevice: MTLDevice, MTLCommandQueue {
        private let inner: MTLDevice
        private let queue: MTLCommandQueue
        /// Command buffers that were committed and not waited for, now and at most.
        private(set) var running = 0
        private(set) var most = 0

        init(_ inner: MTLDevice) {
            self.inner = inner
            queue = inner.makeCommandQueue()!
        }

        func count(_ change: Int) {
            running += change
            most = max(most, running)
        }

        var name: String { inner.name }
        var maxBufferLength: Int { inner.maxBufferLength }
        var maxThreadgroupMemoryLength: Int { inner.maxThreadgroupMemoryLength }
        var maxThreadsPerThreadgroup: MTLSize { inner.maxThreadsPerThreadgroup }
        var currentAllocatedSize: Int { inner.currentAllocatedSize }
        func supportsFamily(_ family: MTLGPUFamily) -> Bool { inner.supportsFamily(family) }
        func minimumLinearTextureAlignment(for format: MTLPixelFormat) -> Int {
            inner.minimumLinearTextureAlignment(for: format)
        }
        func makeCommandQueue() -> MTLCommandQueue? { self }
        func makeCommandBuffer() -> MTLCommandBuffer? { queue.makeCommandBuffer().map { WatchedBuffer($0, self) } }
        func makeBuffer(length: Int, options: MTLResourceOptions) -> MTLBuffer? {
            inner.makeBuffer(length: length, options: options)
        }
        func makeBuffer(
            bytesNoCopy pointer: UnsafeMutableRawPointer, length: Int, options: MTLResourceOptions,
            deallocator: ((UnsafeMutableRawPointer, Int) -> Void)?
        ) -> MTLBuffer? {
            inner.makeBuffer(bytesNoCopy: pointer, length: length, options: options, deallocator: deallocator)
        }
        func makeLibrary(source: String, options: MTLCompileOptions?) throws -> MTLLibrary {
            try inner.makeLibrary(source: source, options: options)
        }
        func makeComputePipelineState(function: MTLFunction) throws -> MTLComputePipelineState {
            try inner.makeComputePipelineState(function: function)
        }
    }

    private final class WatchedBuffer: MTLCommandBuffer {
        struct Taken: LocalizedError {
            let errorDescription: String? = "the GPU was taken away"
        }

        private let inner: MTLCommandBuffer
        private let device: WatchedDevice
        private var waited = false

        init(_ inner: MTLCommandBuffer, _ device: WatchedDevice) {
            self.inner = inner
            self.device = device
        }

        var error: Error? { device.most > 1 ? Taken() : inner.error }
        var gpuStartTime: CFTimeInterval { inner.gpuStartTime }
        var gpuEndTime: CFTimeInterval { inner.gpuEndTime }
        func makeComputeCommandEncoder() -> MTLComputeCommandEncoder? { inner.makeComputeCommandEncoder() }
        func commit() {
            inner.commit()
            device.count(1)
        }
        func waitUntilCompleted() {
            inner.waitUntilCompleted()
            if !waited { device.count(-1) }
            waited = true
        }
    }
#endif
