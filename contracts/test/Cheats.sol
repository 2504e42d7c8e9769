// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice The few of forge's cheat codes that the tests use; declared here, so that forge-std is not needed.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function assume(bool condition) external pure;
    function expectRevert(bytes calldata data) external;
    function roll(uint256 number) external;
    function prank(address sender) external;
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function snapshotGasLastCall(string calldata group, string calldata name) external returns (uint256 gas);
    function snapshotValue(string calldata group, string calldata name, uint256 value) external;
    function warp(uint256 timestamp) external;
}

/// @notice What every test stands on.
abstract contract Cheats {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error Unequal(uint256 left, uint256 right);

    function assertEq(uint256 left, uint256 right) internal pure {
        if (left != right) revert Unequal(left, right);
    }

    /// @notice `value` folded into low..high.
    function within(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        return low + value % (high - low + 1);
    }
}
