// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {AuditAnchors} from "../src/AuditAnchors.sol";
import {Cheats} from "./Cheats.sol";

contract AuditAnchorsTest is Cheats {
    bytes32 private constant ACCESSES = keccak256("accesses");
    bytes32 private constant DEPLOYMENTS = keccak256("deployments");

    // gemel/wire/merkle.py over «entry 0» to «entry 4»; tests/contract/test_contracts_with_forge.py computes them anew
    bytes32 private constant ROOT = 0xcf3ddfb2716de11a7bb0b73ac7258c0dacdc86b7d40c402e42282ff521ed1f7a;
    bytes32 private constant LEAF_0 = 0xfd6e1b51089f91d4eea8077aec859167713eef8ad305a3a405ceb75f24c8ef78;
    bytes32 private constant PROOF_0 = 0xe6c3ac5d032cf720814493a65ca76d80e73c88df5fcc5153da1abc580ca7d129;
    bytes32 private constant LEAF_1 = 0xd994e3690ce041e670a5d105b9f8af65b3a3f8129d84fd9eec0d6a98c18d7cb9;
    bytes32 private constant PROOF_1_0 = 0xec7ad40b1eb17035b8ecbaec69d487f7a048e34458af2572fc0818446203b017;
    bytes32 private constant PROOF_1_1 = 0x8db08d0ae429d2656a4db7116a1e51eaa6575df181df3a02b33172b5edffb33a;
    bytes32 private constant PROOF_1_2 = 0xfd6e1b51089f91d4eea8077aec859167713eef8ad305a3a405ceb75f24c8ef78;

    AuditAnchors private anchors;

    function setUp() public {
        anchors = new AuditAnchors(address(this));
        anchors.grantRole(anchors.writerRole(ACCESSES), address(this));
    }

    function test_pythonsProofsHoldAndNoOthers() public {
        anchors.anchor(ACCESSES, 1, 5, ROOT);
        bytes32[] memory short = new bytes32[](1);
        short[0] = PROOF_0;
        bytes32[] memory long = new bytes32[](3);
        (long[0], long[1], long[2]) = (PROOF_1_0, PROOF_1_1, PROOF_1_2);
        assert(anchors.leafOf("entry 0") == LEAF_0 && anchors.leafOf("entry 1") == LEAF_1);
        assert(anchors.verify(ACCESSES, 0, LEAF_0, short));
        assert(anchors.verify(ACCESSES, 0, LEAF_1, long));
        assert(!anchors.verify(ACCESSES, 0, LEAF_0, long));
        assert(!anchors.verify(ACCESSES, 0, anchors.leafOf("entry 5"), long));
        assert(!anchors.verify(ACCESSES, 0, LEAF_0, new bytes32[](0)));
    }

    function testFuzz_noOtherLeafHolds(bytes calldata entry) public {
        anchors.anchor(ACCESSES, 1, 5, ROOT);
        bytes32 leaf = anchors.leafOf(entry);
        vm.assume(leaf != LEAF_0);
        bytes32[] memory short = new bytes32[](1);
        short[0] = PROOF_0;
        assert(!anchors.verify(ACCESSES, 0, leaf, short));
    }

    /// Whatever ranges are sent, those taken follow one another without a gap, and stay as they were.
    function testFuzz_rangesAreGaplessAndNeverChange(uint64[8] memory firsts, uint64[8] memory lengths) public {
        uint64 next = 1;
        for (uint256 i; i < firsts.length; ++i) {
            uint64 first = i % 2 == 0 ? next : firsts[i] % (1 << 60);
            uint64 last = lengths[i] % 3 == 0 ? firsts[i] : first + lengths[i] % 2_000_000;
            (bool taken,) =
                address(anchors).call(abi.encodeCall(anchors.anchor, (ACCESSES, first, last, bytes32(i + 1))));
            assert(taken == (first == next && last >= first && last - first < 1_000_000));
            if (taken) next = last + 1;
        }
        assertEq(anchors.anchoredEntries(ACCESSES), next - 1);
        uint64 covered;
        for (uint256 i; i < anchors.anchorCount(ACCESSES); ++i) {
            AuditAnchors.Anchor memory anchor = anchors.anchorAt(ACCESSES, i);
            assert(anchor.first == covered + 1 && anchor.by == address(this) && anchor.root != 0);
            covered = anchor.last;
        }
        assertEq(covered, next - 1);
    }

    function test_sentTwiceIsToldSo() public {
        anchors.anchor(ACCESSES, 1, 5, ROOT);
        vm.expectRevert(abi.encodeWithSelector(AuditAnchors.NotNext.selector, ACCESSES, 1, 6));
        anchors.anchor(ACCESSES, 1, 5, ROOT);
        vm.expectRevert(abi.encodeWithSelector(AuditAnchors.RootMissing.selector));
        anchors.anchor(ACCESSES, 6, 6, 0);
        vm.expectRevert(abi.encodeWithSelector(AuditAnchors.UnknownAnchor.selector, ACCESSES, 1));
        anchors.anchorAt(ACCESSES, 1);
    }

    function test_writerOfOneLogWritesNoOther() public {
        bytes32 role = anchors.writerRole(DEPLOYMENTS);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, address(this), role)
        );
        anchors.anchor(DEPLOYMENTS, 1, 1, ROOT);
    }

    function testFuzz_strangersWriteNothing(address stranger, bytes32 log) public {
        vm.assume(stranger != address(this));
        bytes32 role = anchors.writerRole(log);
        vm.prank(stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, stranger, role)
        );
        anchors.anchor(log, 1, 1, ROOT);
    }
}
