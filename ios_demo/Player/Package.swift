// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "Player",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [.library(name: "Player", targets: ["Player"])],
    targets: [
        .target(name: "Player"),
        .testTarget(name: "PlayerTests", dependencies: ["Player"]),
    ]
)
