"""The same mathematics written differently: numpy in float64, loops, definitions."""

import math

import numpy as np
from scipy.optimize import brentq

# --- divergences ----------------------------------------------------------------------------------


def rows(function, *arrays):
    """function of one row each, over all the leading axes."""
    arrays = [np.asarray(a, np.float64) for a in arrays]
    shape = arrays[0].shape[:-1]
    flat = [a.reshape(-1, a.shape[-1]) for a in arrays]
    return np.array([function(*row) for row in zip(*flat, strict=True)]).reshape(shape)


def softmax(logits):
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    """sum p log(p/q) of two lists, outcome by outcome."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0 and b == 0:
            return math.inf
        if a > 0:
            total += a * math.log(a / b)
    return total


def entropy(p):
    return -sum(a * math.log(a) for a in p if a > 0)


def cross_entropy(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def total_variation(p, q):
    """The largest difference of probability over all events, by listing the events."""
    best = 0.0
    for event in range(2 ** len(p)):
        members = [i for i in range(len(p)) if event >> i & 1]
        best = max(best, abs(sum(p[i] - q[i] for i in members)))
    return best


def renyi(p, q, alpha):
    return math.log(sum(a**alpha * b ** (1 - alpha) for a, b in zip(p, q, strict=True))) / (
        alpha - 1
    )


def normal_kl(loc, scale, new_loc, new_scale):
    """The textbook form, in extended precision."""
    m, s, n, t = (np.asarray(x, np.longdouble) for x in (loc, scale, new_loc, new_scale))
    return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def gauss_expectation(function, loc=0.0, scale=1.0, points=200):
    """E_{x ~ N(loc, scale)} by the trapezoidal rule, spectrally accurate here."""
    z = np.linspace(-14, 14, 20 * points + 1)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return np.sum(density * function(loc + scale * z)) * (z[1] - z[0])


def numerical_gradient(function, x, step=1e-6):
    """Central differences of a scalar function of a vector."""
    x = np.asarray(x, np.float64)
    gradient = np.zeros_like(x)
    for i in range(x.size):
        e = np.zeros_like(x)
        e.flat[i] = step
        gradient.flat[i] = (function(x + e) - function(x - e)) / (2 * step)
    return gradient


# --- losses and advantages ------------------------------------------------------------------------


def clipped_surrogate(log_ratio, advantage, clip_eps):
    """One sample of PPO's loss, case by case."""
    ratio = math.exp(log_ratio)
    held = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
    return -min(ratio * advantage, held * advantage)


def gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """One environment's advantages as explicit sums over the rest of each episode."""
    steps = len(reward)
    advantage = np.zeros(steps)
    for t in range(steps):
        for k in range(t, steps):
            future = 0.0 if terminated[k] else next_value[k]
            advantage[t] += (gamma * lam) ** (k - t) * (reward[k] + gamma * future - value[k])
            if terminated[k] or truncated[k]:
                break
    return advantage


# --- one update of every algorithm ----------------------------------------------------------------
#
# A two-layer policy over 3 inputs and 6 outputs as a function of one flat vector, in numpy alone.
# Everything is analytic in the vector: gradients come from complex steps, exact to rounding.

NUM_INPUTS, NUM_HIDDEN, NUM_OUTPUTS = 3, 5, 6


def outputs(theta, obs):
    """tanh([obs, 1] W) V with a bias row in V: [N, 6]."""
    cut = (NUM_INPUTS + 1) * NUM_HIDDEN
    w = theta[:cut].reshape(NUM_INPUTS + 1, NUM_HIDDEN)
    v = theta[cut:].reshape(NUM_HIDDEN + 1, NUM_OUTPUTS)
    hidden = np.tanh(obs @ w[:-1] + w[-1])
    return hidden @ v[:-1] + v[-1]


def complex_gradient(function, theta, step=1e-30):
    """Im f(theta + i h e_j) / h: no difference, hence no cancellation."""
    columns = []
    for j in range(theta.size):
        moved = theta.astype(complex)
        moved[j] += 1j * step
        columns.append(np.imag(function(moved)) / step)
    return np.stack(columns, -1)


class Softmax:
    """The six outputs as logits of one categorical."""

    @staticmethod
    def log_prob(y, action):
        return y[np.arange(len(y)), action] - np.log(np.exp(y).sum(-1))

    @staticmethod
    def kl(y, z):
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        log_q = z - np.log(np.exp(z).sum(-1, keepdims=True))
        return (np.exp(log_p) * (log_p - log_q)).sum(-1)

    @staticmethod
    def entropy(y):
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        return -(np.exp(log_p) * log_p).sum(-1)

    @staticmethod
    def fisher(y):
        p = softmax(y)
        return np.diag(p) - np.outer(p, p)

    @classmethod
    def parts(cls, y, z):
        return cls.kl(y, z), np.zeros(len(y))

    @classmethod
    def project(cls, old, new, bound, _):
        """By Newton's method on the share of new's logits: KL' = w Var(log new - log old)."""
        log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (old, new))
        difference = log_q - log_p

        def moments(w):
            q = np.exp(log_p + w[:, None] * difference)
            q = q / q.sum(-1, keepdims=True)
            mean = (q * difference).sum(-1, keepdims=True)
            mixed = log_p + w[:, None] * difference
            return cls.kl(mixed, old), w * (q * (difference - mean) ** 2).sum(-1)

        return old + newton(moments, bound, new.dtype, len(old))[:, None] * (new - old)

    @staticmethod
    def interval(y, action, bound):
        """The ratios x with (1 - p) log((1 - p) / (1 - p x)) - p log x on the bound."""
        found = []
        for p in softmax(y)[np.arange(len(y)), action]:

            def excess(x, p=p):
                return (1 - p) * math.log((1 - p) / (1 - p * x)) - p * math.log(x) - bound

            ends = (1e-300, 1.0), (1.0, (1 - 1e-15) / p)
            found.append([brentq(excess, *e, xtol=1e-14, rtol=1e-14) for e in ends])
        return np.array(found).T


class Gaussian:
    """The outputs as three means and three log standard deviations, the latter times 0.3."""

    @staticmethod
    def log_prob(y, action):
        log_std = 0.3 * y[:, 3:]
        z = (action - y[:, :3]) / np.exp(log_std)
        return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    @staticmethod
    def kl(y, z):
        m, s, n, t = y[:, :3], np.exp(0.3 * y[:, 3:]), z[:, :3], np.exp(0.3 * z[:, 3:])
        return (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(-1)

    @staticmethod
    def entropy(y):
        return (0.3 * y[:, 3:] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    @staticmethod
    def fisher(y):
        return np.diag([*np.exp(-0.6 * y[3:]), *[2 * 0.3**2] * 3])

    @classmethod
    def parts(cls, y, z):
        means, scales = y.astype(z.dtype), y.astype(z.dtype)
        means[:, :3], scales[:, 3:] = z[:, :3], z[:, 3:]
        return cls.kl(y, means), cls.kl(y, scales)

    @staticmethod
    def project(old, new, bound, scale_bound):
        """The means along a line, in closed form; the precisions by Newton's method."""
        change, variance = new[:, :3] - old[:, :3], np.exp(0.6 * old[:, 3:])
        length = (change**2 / variance).sum(-1) / 2
        factor = np.where(np.real(length) > bound, (bound / length) ** 0.5, 1)
        excess = np.exp(-0.6 * (new[:, 3:] - old[:, 3:])) - 1  # of the precision, relative

        def moments(w):
            growth = 1 + w[:, None] * excess
            kl = 0.5 * (np.log(growth) + 1 / growth - 1).sum(-1)
            return kl, 0.5 * (excess / growth - excess / growth**2).sum(-1)

        share = newton(moments, scale_bound, new.dtype, len(old))[:, None]
        log_std = 0.3 * old[:, 3:] - 0.5 * np.log(1 + share * excess)
        return np.concatenate([old[:, :3] + factor[:, None] * change, log_std / 0.3], axis=-1)

    @staticmethod
    def interval(y, action, bound):
        """Newton's method on the conditions of Lagrange: a mean and a deviation for each dimension.

        Minimise or maximise log N(z; m, v) of the standardised action subject to the KL of
        N(0, 1) from N(m, v): the multiplier weighs the point with the sample of old.
        """
        found = []
        for z in (action - y[:, :3]) / np.exp(0.3 * y[:, 3:]):

            def moved(w, z=z):
                mean = w * z
                variance = (1 - w) * 1 + w * z**2 - mean**2
                kl = 0.5 * (np.log(variance) + (1 + mean**2) / variance - 1).sum()
                gain = -0.5 * np.log(variance) - 0.5 * (z - mean) ** 2 / variance + 0.5 * z**2
                return kl - bound, math.exp(gain.sum())

            ends = -(1 - 1e-12) / np.max(z**2), 1 - 1e-12
            roots = [brentq(lambda w: moved(w)[0], 0, end, xtol=1e-15, rtol=1e-14) for end in ends]
            found.append([moved(w)[1] for w in roots])
        return np.array(found).T


def newton(moments, bound, dtype, count):
    """The shares w in [0, 1] at which a growing function is the bound, 1 where it never is.

    ``moments(w) -> (function, derivative)``. Bisection on the real part, then complex steps.
    """
    low, high = np.zeros(count), np.ones(count)
    for _ in range(60):
        middle = (low + high) / 2
        within = np.real(moments(middle)[0]) <= bound
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    inside = np.real(moments(np.ones(count))[0]) <= bound
    w = low.astype(dtype)
    for _ in range(4):
        value, slope = moments(w)
        w = w - (value - bound) / slope
    return np.where(inside, 1, w)


class Problem:
    """A batch and what the algorithms compute from it, as functions of the flat parameters."""

    def __init__(self, family, theta, obs, action, advantage):
        self.family, self.theta, self.obs = family, theta, obs
        self.action, self.advantage = action, advantage
        self.old = outputs(theta, obs)

    def rows(self, index):
        data = (x[index] for x in (self.obs, self.action, self.advantage))
        return Problem(self.family, self.theta, *data)

    def mean_kl(self, theta, reverse=False):
        new = outputs(theta, self.obs)
        pair = (new, self.old) if reverse else (self.old, new)
        return self.family.kl(*pair).mean()

    def ratio(self, theta):
        new = outputs(theta, self.obs)
        log_prob = self.family.log_prob
        return np.exp(log_prob(new, self.action) - log_prob(self.old, self.action))

    def mean_entropy(self, theta):
        return self.family.entropy(outputs(theta, self.obs)).mean()

    def gain(self, theta, entropy_coef=0.0):
        policy_gain = (self.ratio(theta) * self.advantage).mean()
        return policy_gain + entropy_coef * self.mean_entropy(theta)

    def clip_loss(self, theta, clip_eps, entropy_coef=0.0):
        ratio, a = self.ratio(theta), self.advantage
        held = np.minimum(np.maximum(np.real(ratio), 1 - clip_eps), 1 + clip_eps)
        # Where the clipped branch is the smaller one, a constant.
        smaller = np.where(np.real(ratio) * a <= held * a, ratio * a, held * a)
        return -smaller.mean() - entropy_coef * self.mean_entropy(theta)

    def drift_loss(self, theta, drift, entropy_coef=0.0):
        """-(r A - D), with D of the ratios, the advantages and the KL of each state."""
        kl = self.family.kl(self.old, outputs(theta, self.obs))
        drifts = drift(self.ratio(theta), self.advantage, kl)
        return drifts.mean() - self.gain(theta, entropy_coef)

    def trpl_loss(self, theta, bound, scale_bound, coefficient, entropy_coef=0.0):
        """The surrogate of the projected outputs, and the KL of new from what these are."""
        new = outputs(theta, self.obs)
        projected = self.family.project(self.old, new, bound, scale_bound)
        log_prob = self.family.log_prob
        ratio = np.exp(log_prob(projected, self.action) - log_prob(self.old, self.action))
        gap = self.family.kl(np.real(projected), new)
        entropy = entropy_coef * self.mean_entropy(theta)
        return (coefficient * gap - ratio * self.advantage).mean() - entropy

    def penalty_loss(self, theta, beta, entropy_coef=0.0, reverse=False):
        return -self.gain(theta, entropy_coef) + beta * self.mean_kl(theta, reverse)

    def fisher(self, stride=1):
        """The dense mean of J' M J, state by state."""
        states = self.obs[::stride]
        jacobian = complex_gradient(lambda theta: outputs(theta, states), self.theta)
        total = 0.0
        for j, y in zip(jacobian, outputs(self.theta, states), strict=True):
            total = total + j.T @ self.family.fisher(y) @ j
        return total / len(states)


def beyond(r, a, low, high):
    """(r - edge) A where r is beyond the edge in the direction of A, else 0; r may be complex."""
    x = np.real(r)
    above, below = (x > 1 + high) & (a > 0), (x < 1 - low) & (a < 0)
    return np.where(above, (r - 1 - high) * a, 0) + np.where(below, (r - 1 + low) * a, 0)


def learned(r, a, alpha, beta):
    gain, fall = (r - 1) * a, np.log(r) * a
    good = np.where(np.real(gain) > 0, gain - alpha * np.tanh(gain / alpha), 0)
    bad = np.where(np.real(fall) > 0, fall - beta * np.tanh(fall / beta), 0)
    return np.where(a >= 0, good, bad)


DRIFTS = {
    "free": lambda r, a, kl: 0 * r,
    "clip": lambda r, a, kl, eps: beyond(r, a, eps, eps),
    "asymmetric": lambda r, a, kl, low, high: beyond(r, a, low, high),
    "dual": lambda r, a, kl, eps, dual: (
        beyond(r, a, eps, eps) + np.where((np.real(r) > dual) & (a < 0), (r - dual) * a, 0)
    ),
    "spo": lambda r, a, kl, eps: np.where(a > 0, a, -a) * (r - 1) ** 2 / (2 * eps),
    "fisher_rao": lambda r, a, kl, tau: (2 * r - 4 * r**0.5 + 2) / tau,
    "learned": lambda r, a, kl, alpha, beta: learned(r, a, alpha, beta),
    "rollback": lambda r, a, kl, eps, slope: (1 + slope) * beyond(r, a, eps, eps),
    "kl_clip": lambda r, a, kl, bound: np.where(np.real(kl) > bound, beyond(r, a, 0, 0), 0),
    "truly": lambda r, a, kl, bound, slope: np.where(
        (np.real(kl) > bound) & (np.real(r) * a > a), slope * (kl - bound), 0
    ),
    "kl": lambda r, a, kl, beta: beta * kl,
    "log": lambda r, a, kl, eta: r * a - np.maximum(a, -1 / eta) * np.log(r) + kl / eta,
    "bounded_kl": lambda r, a, kl, beta, c: beta * c * (1 - np.exp(-kl / c)),
}
"""D of mirror learning, of complex ratios and KLs too."""


def clip_norm(gradient, bound):
    length = math.sqrt((gradient**2).sum())
    return gradient * (bound / length) if length > bound else gradient


def vanilla_pg(problem, learning_rate, entropy_coef=0.0, max_grad_norm=math.inf):
    gradient = complex_gradient(lambda t: problem.gain(t, entropy_coef), problem.theta)
    return problem.theta + learning_rate * clip_norm(gradient, max_grad_norm)


def natural_step(problem, kl, damping, entropy_coef=0.0, stride=1):
    """The step whose damped quadratic model of the KL is exactly ``kl``."""
    gradient = complex_gradient(lambda t: problem.gain(t, entropy_coef), problem.theta)
    metric = problem.fisher(stride) + damping * np.eye(problem.theta.size)
    x = np.linalg.solve(metric, gradient)
    return math.sqrt(2 * kl / (x @ metric @ x)) * x


def trpo(
    problem, max_kl, damping, shrink, max_backtracks, entropy_coef=0.0, stride=1, reverse=False
):
    """New parameters and the number of backtracks, None if every candidate was rejected."""
    step = natural_step(problem, max_kl, damping, entropy_coef, stride)
    before = problem.gain(problem.theta, entropy_coef)
    for k in range(max_backtracks + 1):
        candidate = problem.theta + shrink**k * step
        inside = problem.mean_kl(candidate, reverse) <= max_kl
        if inside and problem.gain(candidate, entropy_coef) > before:
            return candidate, k
    return problem.theta, None


class Adam:
    """Steps of Adam with a bound on the gradient's norm; it remembers both moments."""

    def __init__(self, size, learning_rate, max_grad_norm, epsilon=1e-5):
        self.rate, self.bound, self.epsilon = learning_rate, max_grad_norm, epsilon
        self.first, self.second, self.steps = np.zeros(size), np.zeros(size), 0

    def step(self, loss, theta):
        gradient = clip_norm(complex_gradient(loss, theta), self.bound)
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1 - 0.9**self.steps)
        square = self.second / (1 - 0.999**self.steps)
        return theta - self.rate * mean / (np.sqrt(square) + self.epsilon)


def ppo_ewma(problem, orders, learning_rate, clip_eps, decay, max_grad_norm=math.inf):
    """(parameters, proximal ones): a running list of all parameters, and their weights."""
    theta, prox = problem.theta, problem.theta
    adam, trail, weights = Adam(theta.size, learning_rate, max_grad_norm), [theta], [1.0]
    for minibatches in orders:
        for index in minibatches:
            part = problem.rows(index)
            behind = part.ratio(prox)

            def loss(t, part=part, behind=behind):
                ratio, a = part.ratio(t) / behind, part.advantage
                return -(behind * (ratio * a - beyond(ratio, a, clip_eps, clip_eps))).mean()

            theta = adam.step(loss, theta)
            trail, weights = [*trail, theta], [*(decay * w for w in weights), 1.0]
            prox = np.average(trail, axis=0, weights=weights)
    return theta, prox


def vmpo(problem, orders, learning_rate, dual_rate, targets, duals, max_grad_norm=math.inf):
    """(parameters, duals): eta, alpha of the first and of the second part of the KL."""
    theta, duals = problem.theta, np.array(duals)
    adam = Adam(theta.size, learning_rate, max_grad_norm)
    own = Adam(3, dual_rate, math.inf, epsilon=1e-8)
    for minibatches in orders:
        for index in minibatches:
            part = problem.rows(index)
            best = np.argsort(-part.advantage)[: (len(index) + 1) // 2]
            top = part.advantage[best]

            def loss(t, part=part, best=best, top=top, duals=duals):
                new = outputs(t, part.obs)
                psi = np.exp(top / duals[0]) / np.exp(top / duals[0]).sum()
                kls = [kl.mean() for kl in part.family.parts(part.old, new)]
                fit = -(psi * part.family.log_prob(new, part.action)[best]).sum()
                return fit + duals[1] * kls[0] + duals[2] * kls[1]

            kls = [kl.mean() for kl in part.family.parts(part.old, outputs(theta, part.obs))]

            def dual(d, top=top, kls=kls):
                temperature = d[0] * (targets[0] + np.log(np.exp(top / d[0]).mean()))
                held = [d[1 + i] * (targets[1 + i] - kls[i]) for i in range(2)]
                return temperature + sum(held)

            theta, duals = adam.step(loss, theta), np.maximum(own.step(dual, duals), 1e-8)
    return theta, duals


def fixpo(problem, adam, num_epochs, beta, bound, max_fixups):
    """(parameters, passes) of whole-batch steps with a penalty, then of steps that mend them."""

    def largest(theta):
        return problem.family.kl(problem.old, outputs(theta, problem.obs)).max()

    theta, passes, weight = problem.theta, 0, max(beta, 1.0)
    for _ in range(num_epochs):
        theta = adam.step(lambda t: problem.penalty_loss(t, beta), theta)
    while largest(theta) > bound and passes < max_fixups:
        theta = adam.step(lambda t, w=weight: problem.penalty_loss(t, w), theta)
        weight, passes = 2 * weight, passes + 1
    return (theta if largest(theta) <= bound else problem.theta), passes


def adam_epochs(problem, loss, orders, learning_rate, max_grad_norm, epsilon=1e-5):
    """(parameters, both moments) after each epoch; ``loss(part of the problem, theta)``.

    ``orders`` has a list of minibatches, arrays of rows, for each epoch.
    """
    theta, trail = problem.theta, []
    adam = Adam(theta.size, learning_rate, max_grad_norm, epsilon)
    for minibatches in orders:
        for index in minibatches:
            part = problem.rows(index)
            theta = adam.step(lambda t, part=part: loss(part, t), theta)
        trail.append((theta, adam.first, adam.second))
    return trail


def steered(value, kl, stopped, *, target, tolerance, if_above, if_below, low, high):
    """What follows the KL (a penalty's weight, a learning rate), for the next iteration."""
    if stopped or kl > target * tolerance:
        value = value * if_above
    elif kl < target / tolerance:
        value = value * if_below
    return min(max(value, low), high)
