// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {DeviceRegistry, Role} from "./DeviceRegistry.sol";
import {IElectorate} from "./IElectorate.sol";
import {QuorumSigned} from "./QuorumSigned.sol";

/// @title How far each device is trusted (r_k of the weighting), and what its owner earned.
/// @notice A quorum of validators signs what became of each device in a round; anybody hands it in, once for each
/// device and round. A score moves by a fixed part towards the result, and between results back to where it began, by
/// half in each half-life: praise and blame are both forgotten. All in ppm and whole numbers.
contract Trust is EIP712, QuorumSigned {
    using SafeERC20 for IERC20;

    /// @notice What became of one device in one round.
    struct Result {
        address device;
        uint32 outcome; // ppm; 0 for whoever was not admitted, else how good the update was
        uint32 share; // ppm of the round's reward; all of a round together at most the whole
    }

    /// @notice What the consortium decides when it founds the network.
    struct Terms {
        uint32 initial; // ppm; the score of whoever has not been heard of
        uint32 floor; // ppm; below it a device is suspended until its score has recovered
        uint32 step; // ppm; how far one result moves a score
        uint64 halfLifeSeconds;
        uint96 rewardPerRound;
    }

    struct Score {
        uint32 score; // ppm, when it was last moved
        uint64 movedAt; // seconds; 0 for whoever has not been heard of
    }

    uint32 private constant PPM = 1_000_000;
    bytes32 private constant REPORT_TYPE = keccak256("TrustReport(bytes32 task,uint64 round,bytes32 results)");

    DeviceRegistry public immutable devices;
    IERC20 public immutable token;
    uint256 public rewardPool;

    Terms private _terms;
    mapping(address device => Score) private _scores;
    mapping(address owner => uint256) private _claims;
    mapping(bytes32 task => mapping(uint64 round => mapping(address device => bool))) private _reported;
    mapping(bytes32 task => mapping(uint64 round => uint32)) private _shared;

    event ScoreMoved(
        bytes32 indexed task, uint64 indexed round, address indexed device, uint32 outcome, uint32 before, uint32 score
    );
    event RewardEarned(bytes32 indexed task, uint64 indexed round, address indexed owner, address device, uint256 tokens);
    event RewardClaimed(address indexed owner, uint256 tokens);
    event PoolFunded(address indexed from, uint256 tokens);

    error TermsOutOfRange();
    error NotAgent(address device);
    error OutcomeOutOfRange(address device, uint32 outcome);
    error AlreadyReported(bytes32 task, uint64 round, address device);
    error RoundOverspent(bytes32 task, uint64 round, uint256 shares);
    error NothingToClaim(address owner);

    constructor(
        DeviceRegistry devices_,
        IElectorate electorate_,
        IERC20 token_,
        uint32 quorumPart_,
        Terms memory terms_
    ) EIP712("Gemel", "1") QuorumSigned(electorate_, quorumPart_) {
        if (
            terms_.initial > PPM || terms_.floor > terms_.initial || terms_.step == 0 || terms_.step > PPM
                || terms_.halfLifeSeconds == 0
        ) revert TermsOutOfRange();
        (devices, token, _terms) = (devices_, token_, terms_);
    }

    /// @notice Enter what a quorum signed: `TrustReport` over keccak(abi.encode(results)). A round with many devices
    /// takes several reports.
    /// @param signatures ordered by rising signer
    function report(bytes32 task, uint64 round, Result[] calldata results, bytes[] calldata signatures) external {
        bytes32 structHash = keccak256(abi.encode(REPORT_TYPE, task, round, keccak256(abi.encode(results))));
        _requireQuorum(_hashTypedDataV4(structHash), signatures);
        uint256 shared = _shared[task][round];
        for (uint256 i; i < results.length; ++i) {
            Result calldata result = results[i];
            _enter(task, round, result);
            shared += result.share;
        }
        if (shared > PPM) revert RoundOverspent(task, round, shared);
        _shared[task][round] = uint32(shared);
    }

    /// @notice Give tokens for contributions.
    function fund(uint256 tokens) external {
        rewardPool += tokens;
        emit PoolFunded(msg.sender, tokens);
        token.safeTransferFrom(msg.sender, address(this), tokens);
    }

    /// @notice Pay an owner what his devices earned; anybody may ask for it.
    function claim(address owner) external returns (uint256 tokens) {
        tokens = _claims[owner];
        if (tokens == 0) revert NothingToClaim(owner);
        _claims[owner] = 0;
        emit RewardClaimed(owner, tokens);
        token.safeTransfer(owner, tokens);
    }

    // --- views ----------------------------------------------------------------------------------

    /// @notice The score now, in ppm. Between half-lives the way back is a straight line.
    function scoreOf(address device) public view returns (uint32) {
        Score memory entry = _scores[device];
        uint32 initial = _terms.initial;
        // slither-disable-next-line incorrect-equality,timestamp  0 means that there is no score; none ever moved then
        if (entry.movedAt == 0) return initial;
        bool above = entry.score >= initial;
        uint256 distance = above ? entry.score - initial : initial - entry.score;
        uint256 elapsed = block.timestamp - entry.movedAt;
        uint256 halfLife = _terms.halfLifeSeconds;
        distance >>= elapsed / halfLife;
        // slither-disable-next-line weak-prng  the rest of a span of time, nothing drawn
        distance -= distance * (elapsed % halfLife) / (2 * halfLife);
        return above ? initial + uint32(distance) : initial - uint32(distance);
    }

    /// @notice The scores of many, in the order of `devices_`.
    function scoresOf(address[] calldata devices_) external view returns (uint32[] memory scores) {
        scores = new uint32[](devices_.length);
        for (uint256 i; i < devices_.length; ++i) {
            scores[i] = scoreOf(devices_[i]);
        }
    }

    /// @notice Whether a device shall be left out for now. The DeviceRegistry's suspension is another, and for good.
    function isSuspended(address device) external view returns (bool) {
        // slither-disable-next-line timestamp  half-lives are days
        return scoreOf(device) < _terms.floor;
    }

    function claimOf(address owner) external view returns (uint256 tokens) {
        return _claims[owner];
    }

    function isReported(bytes32 task, uint64 round, address device) external view returns (bool) {
        return _reported[task][round][device];
    }

    function terms() external view returns (Terms memory) {
        return _terms;
    }

    // --- inside ---------------------------------------------------------------------------------

    function _enter(bytes32 task, uint64 round, Result calldata result) private {
        address device = result.device;
        // slither-disable-next-line calls-loop  our own registry, once for each device of a round
        DeviceRegistry.Party memory party = devices.party(device);
        if (party.role != Role.Agent) revert NotAgent(device); // suspended or not: the result is from before
        if (result.outcome > PPM) revert OutcomeOutOfRange(device, result.outcome);
        if (_reported[task][round][device]) revert AlreadyReported(task, round, device);
        _reported[task][round][device] = true;
        uint32 before = scoreOf(device);
        uint256 step = _terms.step;
        uint32 score = uint32((before * (PPM - step) + result.outcome * step) / PPM);
        _scores[device] = Score(score, uint64(block.timestamp));
        emit ScoreMoved(task, round, device, result.outcome, before, score);
        // an empty pool pays what is left of it: a report is never held up by money
        uint256 reward = Math.min(rewardPool, uint256(_terms.rewardPerRound) * result.share / PPM);
        if (reward == 0) return;
        rewardPool -= reward;
        _claims[party.owner] += reward;
        emit RewardEarned(task, round, party.owner, device, reward);
    }
}
