// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Attestations} from "./Attestations.sol";
import {CandidateList} from "./CandidateList.sol";
import {DeviceRegistry, Role} from "./DeviceRegistry.sol";
import {IElectorate} from "./IElectorate.sol";
import {RoundRegistry, RoundState} from "./RoundRegistry.sol";
import {StakePool} from "./StakePool.sol";
import {StakeToken} from "./StakeToken.sol";

/// @title Delegated proof of stake: who may vote, and who may make blocks.
/// @notice A registered validator stakes and stands; anybody delegates to him. When an epoch is over, anybody closes
/// it: the heaviest candidates take the seats, and those who sat are paid for the points that they earned.
///
/// Gas is bounded by `CAPACITY`. Candidates stand in a list kept in order at every change of stake, so electing reads
/// it from the top; who comes to a full list must outweigh the last of it, who drops out (and may come back).
///
/// Slashing needs no judge: it takes two signatures that contradict each other, or one that contradicts the chain. It
/// reaches bonded and unbonding tokens, and what it takes goes to the pool of rewards. To be far from the median costs
/// points, not stake. Tokens here are always the sum of what is bonded, what is unbonding and the pool.
contract Election is IElectorate, AccessControl {
    using CandidateList for CandidateList.List;
    using SafeERC20 for IERC20;
    using StakePool for StakePool.Pool;

    /// @notice What the consortium decides when it founds the network; it stays as it is.
    struct Terms {
        uint16 seats;
        uint16 minimumSeats; // an epoch with fewer candidates is not closed: four tolerate one traitor
        uint16 capacity; // how many may stand
        uint96 minimumStake; // own and delegated, to be listed
        uint64 epochSeconds;
        uint64 unbondingSeconds; // longer than an epoch, so that nobody votes with what he has taken out
        uint96 rewardPerEpoch;
        uint32 slashPart; // ppm of all that is bonded and unbonding with the offender
    }

    struct Seat {
        uint96 weight; // when it was taken; above zero for whoever was elected
        uint96 points; // earned in the epoch so far
        uint16 index; // in `electedAt`: who counts votes may keep a bit for each
    }

    struct Unbonding {
        address validator;
        uint64 releaseAt;
        uint256 shares; // of the validator's unbonding pool
    }

    /// @notice A contract that may say who earned points.
    bytes32 public constant SCORER_ROLE = keccak256("SCORER_ROLE");
    uint16 public constant MAXIMUM_CAPACITY = 128;
    uint32 private constant PPM = 1_000_000;

    StakeToken public immutable token;
    DeviceRegistry public immutable devices;
    RoundRegistry public immutable rounds;

    uint64 public epoch;
    uint64 public epochEnds; // seconds; whoever comes first after it closes the epoch
    uint256 public rewardPool;

    Terms private _terms;
    CandidateList.List private _candidates;
    // slither-disable-next-line uninitialized-state  closeEpoch fills it
    mapping(uint64 epoch => address[]) private _elected;
    mapping(uint64 epoch => uint256) private _totals;
    mapping(uint64 epoch => mapping(address validator => Seat)) private _seats;
    mapping(address validator => bool) private _standing;
    mapping(address validator => bool) private _expelled;
    mapping(address validator => StakePool.Pool) private _bonded;
    mapping(address validator => StakePool.Pool) private _unbonding;
    mapping(address validator => mapping(address delegator => uint256)) private _shares;
    mapping(address delegator => mapping(uint256 id => Unbonding)) private _unbondings;
    mapping(address delegator => uint256) private _unbondingCount;
    mapping(bytes32 offence => bool) private _punished;

    event Delegated(address indexed delegator, address indexed validator, uint256 tokens, uint256 shares);
    event Undelegated(
        address indexed delegator, address indexed validator, uint256 id, uint256 tokens, uint64 releaseAt
    );
    event Withdrawn(address indexed delegator, address indexed validator, uint256 id, uint256 tokens);
    event CandidateListed(address indexed validator, uint256 weight);
    event CandidateUnlisted(address indexed validator);
    event Retired(address indexed validator);
    event EpochClosed(uint64 indexed epoch, address[] elected, uint256 totalWeight, uint64 endsAt);
    event PointsCredited(address indexed validator, uint64 indexed epoch, uint256 points);
    event Rewarded(address indexed validator, uint64 indexed epoch, uint256 tokens);
    event PoolFunded(address indexed from, uint256 tokens);
    event Slashed(address indexed validator, bytes32 indexed offence, uint256 tokens);

    error TermsOutOfRange();
    error NotValidator(address account);
    error NotStanding(address validator);
    error Expelled(address validator);
    error SharesMissing(address delegator, uint256 held, uint256 wanted);
    error UnknownUnbonding(address delegator, uint256 id);
    error StillUnbonding(uint64 releaseAt);
    error EpochRunning(uint64 endsAt);
    error TooFewCandidates(uint256 found, uint256 minimum);
    error NotElected(address validator);
    error NoContradiction();
    error SignersDiffer(address first, address second);
    error SumNotConfirmed(bytes32 task, uint64 round, RoundState state);
    error AlreadySlashed(bytes32 offence);

    /// @param admin grants and takes `SCORER_ROLE`, and nothing else; a timelock
    constructor(
        StakeToken token_,
        DeviceRegistry devices_,
        RoundRegistry rounds_,
        address admin,
        Terms memory terms_
    ) {
        if (
            terms_.minimumSeats == 0 || terms_.seats < terms_.minimumSeats || terms_.capacity < terms_.seats
                || terms_.capacity > MAXIMUM_CAPACITY || terms_.minimumStake == 0 || terms_.epochSeconds == 0
                || terms_.unbondingSeconds <= terms_.epochSeconds || terms_.slashPart == 0 || terms_.slashPart > PPM
        ) revert TermsOutOfRange();
        (token, devices, rounds, _terms) = (token_, devices_, rounds_, terms_);
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
    }

    // --- stake --------------------------------------------------------------------------------

    /// @notice A validator puts his own tokens down and stands from now on.
    /// @param hint the candidate whom he comes after with the new weight; a wrong one costs gas only
    function stake(uint256 tokens, address hint) external {
        if (_expelled[msg.sender]) revert Expelled(msg.sender);
        if (!devices.isActive(msg.sender, Role.Validator)) revert NotValidator(msg.sender);
        _standing[msg.sender] = true;
        _delegate(msg.sender, tokens, hint);
    }

    /// @notice Put tokens down for somebody who stands; he votes with them, and they are slashed with his.
    function delegate(address validator, uint256 tokens, address hint) external {
        if (!_standing[validator]) revert NotStanding(validator);
        _delegate(validator, tokens, hint);
    }

    /// @notice Take shares out. Until `withdraw` the tokens earn nothing and can still be slashed.
    /// @return id of the unbonding, counted per delegator
    function undelegate(address validator, uint256 shares, address hint) external returns (uint256 id) {
        uint256 held = _shares[validator][msg.sender];
        if (shares == 0 || shares > held) revert SharesMissing(msg.sender, held, shares);
        _shares[validator][msg.sender] = held - shares;
        uint256 tokens = _bonded[validator].redeem(shares);
        uint64 releaseAt = uint64(block.timestamp) + _terms.unbondingSeconds;
        id = _unbondingCount[msg.sender]++;
        _unbondings[msg.sender][id] = Unbonding(validator, releaseAt, _unbonding[validator].deposit(tokens));
        emit Undelegated(msg.sender, validator, id, tokens, releaseAt);
        _place(validator, hint);
    }

    /// @notice Take out what has unbonded.
    function withdraw(uint256 id) external returns (uint256 tokens) {
        Unbonding memory entry = _unbondings[msg.sender][id];
        if (entry.shares == 0) revert UnknownUnbonding(msg.sender, id);
        // slither-disable-next-line timestamp  days; a block producer shifts seconds
        if (block.timestamp < entry.releaseAt) revert StillUnbonding(entry.releaseAt);
        delete _unbondings[msg.sender][id];
        tokens = _unbonding[entry.validator].redeem(entry.shares);
        emit Withdrawn(msg.sender, entry.validator, id, tokens);
        IERC20(token).safeTransfer(msg.sender, tokens);
    }

    /// @notice Stand no more. The seat stays until the epoch is closed; delegators take their tokens out themselves.
    function retire() external {
        if (!_standing[msg.sender]) revert NotStanding(msg.sender);
        _standing[msg.sender] = false;
        emit Retired(msg.sender);
        _place(msg.sender, address(0));
    }

    /// @notice Put a candidate where he belongs: back on the list when there is room again, off it when suspended.
    function relist(address validator, address hint) external {
        _place(validator, hint);
    }

    // --- epochs and rewards -------------------------------------------------------------------

    /// @notice Pay who sat, seat the heaviest. Anybody may, once the epoch is over.
    /// @dev With fewer than `minimumSeats` candidates nothing happens and the old set stays: a chain whose block
    /// producers these are must not be left without.
    function closeEpoch() external {
        // slither-disable-next-line timestamp  hours or days; a block producer shifts seconds
        if (block.timestamp < epochEnds) revert EpochRunning(epochEnds);
        _pay();
        uint64 current = ++epoch;
        epochEnds = uint64(block.timestamp) + _terms.epochSeconds;
        address[] storage elected = _elected[current];
        // slither-disable-next-line uninitialized-local  counts from 0
        uint256 total;
        uint256 seats = _terms.seats;
        for (
            address who = _candidates.first();
            who != address(0) && elected.length < seats;
            who = _candidates.next(who)
        ) {
            // slither-disable-next-line calls-loop  our own registry, at most CAPACITY times
            if (!devices.isActive(who, Role.Validator)) continue;
            uint96 weight = _candidates.weightOf(who);
            _seats[current][who] = Seat(weight, 0, uint16(elected.length));
            elected.push(who);
            total += weight;
        }
        if (elected.length < _terms.minimumSeats) revert TooFewCandidates(elected.length, _terms.minimumSeats);
        _totals[current] = total;
        emit EpochClosed(current, elected, total, epochEnds);
    }

    /// @notice A vote that was good, as the contract that counted it says; paid when the epoch is closed.
    function credit(address validator, uint32 points) external onlyRole(SCORER_ROLE) {
        Seat storage seat = _seats[epoch][validator];
        if (seat.weight == 0) revert NotElected(validator);
        seat.points += points;
        emit PointsCredited(validator, epoch, points);
    }

    /// @notice Give tokens for rewards.
    function fund(uint256 tokens) external {
        rewardPool += tokens;
        emit PoolFunded(msg.sender, tokens);
        IERC20(token).safeTransferFrom(msg.sender, address(this), tokens);
    }

    // --- slashing, by whoever holds the proof -----------------------------------------------------

    /// @notice Two sums signed by one validator for one round.
    function slashContradictingSums(
        Attestations.SumAttestation calldata first,
        bytes calldata firstSignature,
        Attestations.SumAttestation calldata second,
        bytes calldata secondSignature
    ) external {
        if (first.task != second.task || first.round != second.round) revert NoContradiction();
        bytes32 domain = rounds.domainSeparator();
        _slashContradiction(
            "sum",
            first.task,
            first.round,
            Attestations.signedHash(first, domain),
            firstSignature,
            Attestations.signedHash(second, domain),
            secondSignature
        );
    }

    /// @notice Two measurements signed by one validator for one round.
    function slashContradictingVotes(
        Attestations.ModelAttestation calldata first,
        bytes calldata firstSignature,
        Attestations.ModelAttestation calldata second,
        bytes calldata secondSignature
    ) external {
        if (first.task != second.task || first.round != second.round) revert NoContradiction();
        bytes32 domain = rounds.domainSeparator();
        _slashContradiction(
            "model",
            first.task,
            first.round,
            Attestations.signedHash(first, domain),
            firstSignature,
            Attestations.signedHash(second, domain),
            secondSignature
        );
    }

    /// @notice A sum digest signed by a validator, where a quorum confirmed another.
    function slashWrongSum(Attestations.SumAttestation calldata attestation, bytes calldata signature) external {
        RoundRegistry.Round memory confirmed = rounds.round(attestation.task, attestation.round);
        if (
            confirmed.state < RoundState.Confirmed || confirmed.state == RoundState.Aborted
                || confirmed.sumDigest == 0
        ) revert SumNotConfirmed(attestation.task, attestation.round, confirmed.state);
        if (attestation.sumDigest == confirmed.sumDigest) revert NoContradiction();
        bytes32 signed = Attestations.signedHash(attestation, rounds.domainSeparator());
        _slash(ECDSA.recoverCalldata(signed, signature), "sum", attestation.task, attestation.round);
    }

    // --- views ----------------------------------------------------------------------------------

    /// @inheritdoc IElectorate
    function getValidators() external view override returns (address[] memory) {
        return _elected[epoch];
    }

    /// @inheritdoc IElectorate
    function weightOf(address validator) external view override returns (uint256) {
        return weightAt(epoch, validator);
    }

    /// @inheritdoc IElectorate
    function totalWeight() external view override returns (uint256) {
        return _totals[epoch];
    }

    /// @notice What a vote weighs in a ballot that began in `epoch_`: as when he was elected, but never more than what can
    /// still be slashed, and nothing once he is expelled or suspended.
    function weightAt(uint64 epoch_, address validator) public view returns (uint256) {
        uint256 weight = _seats[epoch_][validator].weight;
        if (weight == 0 || _expelled[validator] || !devices.isActive(validator, Role.Validator)) return 0;
        return Math.min(weight, _bonded[validator].tokens + _unbonding[validator].tokens);
    }

    /// @notice What all who were elected for an epoch weighed then.
    function totalWeightAt(uint64 epoch_) external view returns (uint256) {
        return _totals[epoch_];
    }

    /// @notice What a vote weighs, as `weightAt`, and where its voter sits in `electedAt`.
    function voteAt(uint64 epoch_, address validator) external view returns (uint256 weight, uint256 index) {
        return (weightAt(epoch_, validator), _seats[epoch_][validator].index);
    }

    /// @notice Who was elected for an epoch, heaviest first, and what they weighed then.
    function seatsAt(uint64 epoch_) external view returns (address[] memory validators, uint96[] memory weights) {
        validators = _elected[epoch_];
        weights = new uint96[](validators.length);
        for (uint256 i; i < validators.length; ++i) {
            weights[i] = _seats[epoch_][validators[i]].weight;
        }
    }

    /// @notice How many were elected for an epoch.
    function seatCountAt(uint64 epoch_) external view returns (uint256) {
        return _elected[epoch_].length;
    }

    /// @notice Who was elected for an epoch, heaviest first.
    function electedAt(uint64 epoch_) external view returns (address[] memory) {
        return _elected[epoch_];
    }

    /// @notice What a validator weighed when he was elected for an epoch, and what he earned in it.
    function seatAt(uint64 epoch_, address validator) external view returns (Seat memory) {
        return _seats[epoch_][validator];
    }

    function terms() external view returns (Terms memory) {
        return _terms;
    }

    /// @notice All who stand and are listed, heaviest first.
    function candidates() external view returns (address[] memory listed) {
        listed = new address[](_candidates.size);
        address who = _candidates.first();
        for (uint256 i; i < listed.length; ++i) {
            listed[i] = who;
            who = _candidates.next(who);
        }
    }

    /// @notice Tokens bonded and unbonding with a validator, his own and others'.
    function stakeOf(address validator) external view returns (uint256 bonded, uint256 unbonding_) {
        return (_bonded[validator].tokens, _unbonding[validator].tokens);
    }

    /// @notice What a delegator holds with a validator, and what that is worth now.
    function delegationOf(address validator, address delegator)
        external
        view
        returns (uint256 shares, uint256 tokens)
    {
        shares = _shares[validator][delegator];
        tokens = _bonded[validator].worth(shares);
    }

    /// @notice One unbonding and what it is worth now; its shares are 0 once it is withdrawn.
    function unbonding(address delegator, uint256 id) external view returns (Unbonding memory entry, uint256 tokens) {
        entry = _unbondings[delegator][id];
        tokens = _unbonding[entry.validator].worth(entry.shares);
    }

    function isExpelled(address validator) external view returns (bool) {
        return _expelled[validator];
    }

    // --- inside ---------------------------------------------------------------------------------

    function _delegate(address validator, uint256 tokens, address hint) private {
        uint256 shares = _bonded[validator].deposit(tokens);
        _shares[validator][msg.sender] += shares;
        emit Delegated(msg.sender, validator, tokens, shares);
        _place(validator, hint);
        IERC20(token).safeTransferFrom(msg.sender, address(this), tokens);
    }

    /// @dev List, move or unlist: the one place that changes the list.
    function _place(address validator, address hint) private {
        uint96 weight = SafeCast.toUint96(_bonded[validator].tokens);
        uint96 before = _candidates.weightOf(validator);
        // slither-disable-next-line calls-loop  our own registry, once for each seat
        bool eligible = _standing[validator] && weight >= _terms.minimumStake
            && devices.isActive(validator, Role.Validator);
        if (before != 0) {
            if (eligible && weight == before) return;
            _candidates.remove(validator);
        }
        if (eligible && _candidates.size == _terms.capacity) {
            address last = _candidates.last();
            eligible = weight > _candidates.weightOf(last);
            if (eligible) {
                _candidates.remove(last);
                emit CandidateUnlisted(last);
            }
        }
        if (eligible) {
            _candidates.insert(validator, weight, hint);
            emit CandidateListed(validator, weight);
        } else if (before != 0) {
            emit CandidateUnlisted(validator);
        }
    }

    /// @dev By points times seat weight, so that splitting a stake over two names earns nothing. Rewards are staked at
    /// once, for all who delegated. What rounding or a missing claimant leaves stays in the pool.
    function _pay() private {
        uint64 current = epoch;
        address[] memory elected = _elected[current];
        mapping(address => Seat) storage seats = _seats[current];
        // slither-disable-next-line uninitialized-local  counts from 0
        uint256 total;
        for (uint256 i; i < elected.length; ++i) {
            total += uint256(seats[elected[i]].points) * seats[elected[i]].weight;
        }
        uint256 budget = Math.min(rewardPool, _terms.rewardPerEpoch);
        if (total == 0 || budget == 0) return;
        for (uint256 i; i < elected.length; ++i) {
            address who = elected[i];
            uint256 reward = Math.mulDiv(budget, uint256(seats[who].points) * seats[who].weight, total);
            if (reward == 0 || _expelled[who] || _bonded[who].shares == 0) continue;
            rewardPool -= reward;
            _bonded[who].tokens += reward;
            emit Rewarded(who, current, reward);
            _place(who, address(0));
        }
    }

    function _slashContradiction(
        string memory kind,
        bytes32 task,
        uint64 round,
        bytes32 firstHash,
        bytes calldata firstSignature,
        bytes32 secondHash,
        bytes calldata secondSignature
    ) private {
        if (firstHash == secondHash) revert NoContradiction();
        address offender = ECDSA.recoverCalldata(firstHash, firstSignature);
        address second = ECDSA.recoverCalldata(secondHash, secondSignature);
        if (offender != second) revert SignersDiffer(offender, second);
        _slash(offender, kind, task, round);
    }

    /// @dev Once for each validator, round and kind of vote, however many proofs there are.
    function _slash(address validator, string memory kind, bytes32 task, uint64 round) private {
        bytes32 offence = keccak256(abi.encode(validator, kind, task, round));
        if (_punished[offence]) revert AlreadySlashed(offence);
        _punished[offence] = true;
        _expelled[validator] = true;
        _standing[validator] = false;
        uint256 part = _terms.slashPart;
        uint256 taken = _bonded[validator].slash(part) + _unbonding[validator].slash(part);
        rewardPool += taken;
        emit Slashed(validator, offence, taken);
        _place(validator, address(0));
    }
}
